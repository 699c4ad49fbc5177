from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from medsynth.losses.similarity import feature_distance, structural_dissimilarity


def picture(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 17, 23, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_identical_images_are_not_apart():
    assert structural_dissimilarity(picture(0), picture(0)).item() == pytest.approx(0, abs=1e-6)
    assert feature_distance([picture(0), picture(1)], [picture(0), picture(1)]).item() == 0


def test_dissimilarity_is_one_minus_the_ssim_of_scikit_image():
    image, target = picture(0), (picture(0) + picture(1)) / 2
    options = {"win_size": 7, "data_range": 2.0, "use_sample_covariance": False, "full": True}
    maps = [structural_similarity(a[0].numpy(), b[0].numpy(), **options)[1] for a, b in zip(image, target, strict=True)]
    ssim = sum(part[3:-3, 3:-3].mean() for part in maps) / 2
    assert structural_dissimilarity(image, target).item() == pytest.approx(1 - ssim, abs=1e-4)


def test_dissimilarity_takes_bfloat16_and_counts_in_float32():
    image, target = picture(0).bfloat16(), picture(1).bfloat16()
    expected = structural_dissimilarity(image.float(), target.float())
    assert structural_dissimilarity(image, target) == expected
    assert expected.dtype == torch.float32


def test_feature_distance_by_hand_counts_each_layer_relative_to_its_target():
    features = [torch.tensor([1.0, 3.0]), torch.tensor([100.0])]
    target = [torch.tensor([2.0, 2.0]), torch.tensor([400.0])]
    assert feature_distance(features, target).item() == pytest.approx((1 / 2 + 300 / 400) / 2)


def test_feature_distance_refuses_layers_without_a_partner():
    with pytest.raises(ValueError, match="zip"):
        feature_distance([torch.ones(2)], [torch.ones(2), torch.ones(2)])
