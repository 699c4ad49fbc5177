from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import wasserstein_distance
from skimage.metrics import structural_similarity
from torch.nn.functional import unfold

from medsynth.losses.similarity import (
    _cropped_at_random,
    clamped,
    energy_score,
    feature_distance,
    foreground,
    inside_patient,
    masked_dissimilarity,
    masked_l1,
    sliced_patch_distance,
    spectral_distance,
    structural_dissimilarity,
)


def picture(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 17, 23, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_identical_images_are_not_apart():
    assert structural_dissimilarity(picture(0), picture(0)).item() == pytest.approx(0, abs=1e-6)
    assert feature_distance([picture(0), picture(1)], [picture(0), picture(1)]).item() == 0


def test_clamped_images_stay_within_a_hundredth_of_what_exceeds_the_range_and_keep_gradients_there():
    drawn = torch.tensor([-3.0, -0.9, 0.4, 0.9, 2.0], requires_grad=True)
    found = clamped(drawn)
    torch.testing.assert_close(found, torch.tensor([-1.02, -0.9, 0.4, 0.9, 1.01]))
    found.sum().backward()
    torch.testing.assert_close(drawn.grad, torch.tensor([0.01, 1.0, 1.0, 1.0, 0.01]))


def test_dissimilarity_is_one_minus_the_ssim_of_scikit_image():
    image, target = picture(0), (picture(0) + picture(1)) / 2
    options = {"win_size": 7, "data_range": 2.0, "use_sample_covariance": False, "full": True}
    pairs = zip(image.numpy()[:, 0] + 1, target.numpy()[:, 0] + 1, strict=True)
    maps = [structural_similarity(a, b, **options)[1] for a, b in pairs]
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


def texture(seed: int, size: int = 32) -> torch.Tensor:
    return torch.randn(6, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_patch_distance_is_scipy_s_along_each_direction_of_detail_and_image():
    fake, real = 2 * texture(0, 16) + 0.5, texture(1, 16)
    torch.manual_seed(3)
    found = sliced_patch_distance(fake, real, projections=4).item()
    torch.manual_seed(3)
    detail = [images - torch.from_numpy(uniform_filter(images.numpy(), (0, 0, 3, 3))) for images in (fake, real)]
    assert found == pytest.approx((along_directions(*detail) + along_directions(fake, real)) / 2, rel=0.05)


def along_directions(fake: torch.Tensor, real: torch.Tensor) -> float:
    directions = torch.randn(4, 49)
    directions /= directions.norm(dim=1, keepdim=True)
    torch.randint(1, ())
    along = [unfold(images, 7).transpose(1, 2).reshape(-1, 49) @ directions.T for images in (fake, real)]
    return (
        sum(wasserstein_distance(a, b) / b.std().item() for a, b in zip(*(part.T for part in along), strict=True)) / 4
    )


def test_patch_distance_is_0_for_the_same_images_in_another_order():
    assert sliced_patch_distance(texture(0).flip(0), texture(0)).item() == pytest.approx(0, abs=1e-6)


def test_blurred_images_are_farther_than_others_of_the_same_kind():
    blurred = torch.nn.functional.avg_pool2d(texture(0), 3, stride=1, padding=1)
    assert sliced_patch_distance(blurred, texture(1)) > 5 * sliced_patch_distance(texture(0), texture(1))


def test_descending_the_patch_distance_makes_images_as_rough_as_the_real_ones():
    torch.manual_seed(0)
    images = (0.3 * texture(0)).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        sliced_patch_distance(images, texture(1)).backward()
        optimizer.step()
    assert images.std().item() == pytest.approx(1, abs=0.15)


def test_spectral_distance_of_a_wave_by_hand():
    across = torch.arange(64) * 2 * math.pi / 16
    waves = torch.cos(3 * across).expand(2, 1, 64, 64)
    # a Hann window spreads a wave of 3 cycles a tile over 2 to 4: 3 of 8 rings have power, P and 4 P; quiet is P / 10
    expected = 3 / 8 * (1.1 / 4.1 - math.log(1.1 / 4.1) - 1)
    assert spectral_distance(2 * waves + 1, waves).item() == pytest.approx(expected, rel=1e-3)
    assert spectral_distance(-waves, waves).item() == pytest.approx(0, abs=1e-6)


def test_the_best_power_for_what_cannot_be_known_is_the_mean():
    torch.manual_seed(0)
    real = torch.randn(32, 1, 64, 64) * torch.tensor([0.5, 2.0]).repeat(16).view(-1, 1, 1, 1)
    noise = torch.randn(32, 1, 64, 64)
    gains = [0.5, 1.0, ((0.25 + 4) / 2) ** 0.5, 2.0]
    distances = [spectral_distance(gain * noise, real).item() for gain in gains]
    assert min(distances) == distances[2]


def test_power_that_single_pixels_have_differs_from_that_of_texture():
    torch.manual_seed(0)
    real, other = torch.randn(8, 1, 64, 64), torch.randn(8, 1, 64, 64)
    dots = torch.zeros(8, 1, 64, 64)
    dots[:, :, 20:44:16, 20:44:16] = (64 * 64 / 4) ** 0.5  # as much power in each image
    assert dots.square().mean().item() == pytest.approx(1)
    assert spectral_distance(dots, real) > 10 * spectral_distance(other, real)


@pytest.mark.parametrize("size", [16, 20, 24, 48])
def test_local_spectra_of_small_images(size: int):
    images = torch.randn(2, 1, size, size)
    assert spectral_distance(images, images).item() == 0
    assert spectral_distance(images / 2, images) > 0.5


def test_descending_the_spectral_distance_brings_power_back():
    torch.manual_seed(0)
    real = torch.randn(64, 1, 16, 16)
    gain = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([gain], lr=0.05)
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, padding=1)
    start = spectral_distance(blurred, real)
    for _ in range(60):
        optimizer.zero_grad()
        sharp = blurred + gain * (blurred - torch.nn.functional.avg_pool2d(blurred, 3, 1, padding=1))
        spectral_distance(sharp, real).backward()
        optimizer.step()
    assert spectral_distance(sharp, real) < start / 2
    empty = torch.zeros(64, 1, 16, 16, requires_grad=True)
    spectral_distance(empty, real).backward()
    assert empty.grad.isfinite().all()


def test_the_energy_score_rewards_nearness_to_the_real_image_and_distance_from_its_like():
    one, other, real = (torch.full((1, 1, 16, 16), value) for value in (0.0, 0.5, 1.0))
    assert energy_score(one, other, real).item() == pytest.approx((1.0 + 0.5) / 2 - 0.5 / 2, abs=1e-4)
    checkers = torch.ones(16, 16).cumsum(0).add(torch.arange(16)).remainder(2)[None, None] * 2 - 1
    unlike = energy_score(checkers, checkers, -checkers).item()
    assert unlike == pytest.approx((2 + 0) / 2, abs=1e-3)  # 2 apart in fine detail, alike at half the resolution


def test_the_energy_score_sees_that_parts_do_not_vary_by_themselves():
    torch.manual_seed(0)

    def images(spread: torch.Tensor) -> torch.Tensor:
        return 0.3 * spread.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    real = images(torch.randn(2000, 1, 4, 4))  # every part has a value of its own
    shared = images(torch.randn(4000, 1, 1, 1).expand(-1, -1, 4, 4)).chunk(2)
    apart = images(torch.randn(4000, 1, 4, 4)).chunk(2)
    constant = [torch.zeros_like(real)] * 2
    assert energy_score(*apart, real) < energy_score(*shared, real)
    assert energy_score(*apart, real) < energy_score(*constant, real)


def test_the_energy_score_is_lowest_for_samples_as_varied_as_reality():
    def score(spread: float) -> float:
        torch.manual_seed(0)
        one, other, real = torch.randn(3, 4000, 1, 1, 1).expand(-1, -1, 1, 8, 8)
        return energy_score(spread * one, spread * other, real).item()

    assert score(1.0) == pytest.approx((2**0.5 - 0.5**0.5) * (2 / torch.pi) ** 0.5, abs=0.02)  # of normal distributions
    assert score(1.0) < min(score(0.5), score(1.5)) - 0.01


def test_the_foreground_is_what_either_image_shows_gaps_and_all():
    source, target = torch.full((2, 1, 1, 50, 62), -1.0)
    source[..., 8:40, 8:20] = 0
    target[..., 8:40, 28:48] = 0
    mask = foreground(source, target)
    assert mask.shape == source.shape
    assert mask[..., 8:40, 8:48].eq(1).all()  # the 8 columns between the two as well
    assert mask[..., :4, :].eq(0).all()
    assert mask[..., 52:].eq(0).all()
    assert foreground(torch.full((1, 1, 50, 62), -0.95)).eq(0).all()


def test_masked_l1_by_hand():
    image, target = torch.zeros(1, 1, 1, 4), torch.tensor([[[[1.0, 3.0, 0.0, 5.0]]]])
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    assert masked_l1(image, target, mask).item() == pytest.approx((1.1 * 1 + 1.1 * 3 + 0.1 * 5) / 2.4)


def test_masked_dissimilarity_sees_the_mask_alone_and_does_not_depend_on_its_size():
    target = picture(0)
    other = target.clone()
    other[..., 12:] = picture(1)[..., 12:]
    left = torch.zeros_like(target)
    left[..., :12] = 1
    assert masked_dissimilarity(other, target, left).max().item() == pytest.approx(0, abs=1e-6)
    assert masked_dissimilarity(other, target, 1 - left).min() > 0.5
    whole = masked_dissimilarity(picture(1), target, torch.ones_like(target)).mean()
    assert whole.item() == pytest.approx(structural_dissimilarity(picture(1), target).item())


def test_structural_dissimilarity_keeps_its_precision_under_autocast():
    exact = structural_dissimilarity(picture(0), picture(0) + 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert structural_dissimilarity(picture(0), picture(0) + 0.01).item() == pytest.approx(exact.item())


def test_patches_of_large_images_are_taken_at_other_places_each_time():
    columns_of, rows_of = torch.arange(64.0).expand(2, 1, 64, 64), torch.arange(64.0)[:, None].expand(2, 1, 64, 64)
    seen = set()
    for seed in range(100):
        torch.manual_seed(seed)
        columns, rows = _cropped_at_random(columns_of, rows_of, patch=7, stride=4)
        assert columns.shape == rows.shape == (2, 1, 59, 59)  # 14 patches a side
        assert torch.equal(columns[0, 0, 0].diff(), torch.ones(58))
        seen.add((int(rows[0, 0, 0, 0]), int(columns[0, 0, 0, 0])))
    assert seen == {(first, first) for first in range(6)}


def test_where_a_mask_is_known_it_counts_and_else_the_foreground():
    image = torch.full((2, 1, 16, 16), -1.0)
    image[..., 4:12, 4:12] = 1.0
    body = torch.full_like(image, -1.0)
    body[0, :, :3, :3] = 1.0
    found = inside_patient(body, image)
    assert found[0].sum() == 9
    torch.testing.assert_close(found[1:], foreground(image[1:]))
    torch.testing.assert_close(inside_patient(None, image), foreground(image))
