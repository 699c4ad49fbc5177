from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.stylegan.adaptive_augmentation import HIGHEST, AdaptiveAugmentation


@pytest.fixture
def images():
    """An L of four brightnesses, off centre."""
    picture = torch.full((64, 1, 16, 16), -1.0)
    picture[:, :, 4:12, 4] = 0.5
    picture[:, :, 11, 4:9] = 0.9
    return picture


def always(images, part):
    augmentation = AdaptiveAugmentation(0.6, 1)
    augmentation.probability.fill_(1.0)
    torch.manual_seed(0)
    return getattr(augmentation, part)(images)


def test_nothing_changes_at_first(images):
    assert AdaptiveAugmentation(0.6, 1)(images) is images


def test_the_share_of_changed_images_is_what_the_probability_says():
    augmentation = AdaptiveAugmentation(0.6, 1)
    augmentation.probability.fill_(0.1)
    torch.manual_seed(0)
    same = torch.rand(4000, 1, 4, 4)
    colours = (augmentation._recolour(same) - same).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert colours.float().mean().item() == pytest.approx(1 - 0.9**3, abs=0.02)  # brightness, contrast, noise


def test_images_that_no_change_is_for_come_out_as_they_were(images):
    augmentation = AdaptiveAugmentation(0.6, 1)
    augmentation.probability.fill_(1e-9)
    torch.manual_seed(0)
    assert torch.allclose(augmentation(images), images, atol=1e-5)


def test_moves_bring_in_air_and_keep_heads_in_the_picture(images):
    found = always(images, "_move")
    assert found.min() >= -1 - 1e-5
    assert found.max() <= 0.9 + 1e-5
    assert ((found + 1).sum(dim=(1, 2, 3)) > 0.5 * (images + 1).sum(dim=(1, 2, 3))).all()
    assert not torch.allclose(found[0], found[1], atol=0.1)


def test_a_square_of_half_a_side_is_cut_out(images):
    found = always(torch.zeros(200, 1, 16, 16), "_cut_out")
    black = (found == -1).sum(dim=(1, 2, 3))
    assert set(found.unique().tolist()) == {-1.0, 0.0}
    assert 16 <= black.min() <= black.max() == 64  # a quarter of a square at least is inside


def test_gradients_pass_through_all_changes(images):
    augmentation = AdaptiveAugmentation(0.6, 1)
    augmentation.probability.fill_(0.8)
    images.requires_grad_()
    augmentation(images).square().sum().backward()
    assert (images.grad.flatten(1).abs().amax(dim=1) > 0).all()


def follow(augmentation, scores, times):
    for _ in range(times):
        augmentation.follow(torch.tensor(scores))
    return augmentation.probability.item()


def test_the_probability_moves_by_images_seen_towards_the_target():
    sure, unsure = [1.0, 2.0, 0.1, -1.0] * 4, [1.0, -2.0, 0.1, -1.0] * 4  # mean signs 0.5 and 0
    augmentation = AdaptiveAugmentation(target=0.4, kimg=1, interval=4)
    assert follow(augmentation, sure, 3) == 0
    assert follow(augmentation, sure, 1) == pytest.approx(0.064)  # 4 steps of 16 images, of 1,000
    assert follow(augmentation, sure, 4) == pytest.approx(0.128)
    assert follow(augmentation, unsure, 4) == pytest.approx(0.064)
    assert follow(augmentation, unsure, 400) == 0
    assert follow(augmentation, sure, 4000) == pytest.approx(HIGHEST)


def test_without_a_target_it_does_nothing():
    augmentation = AdaptiveAugmentation(None, 1)
    assert follow(augmentation, [1.0] * 4, 100) == 0


def test_its_state_keeps_the_probability_and_what_it_has_counted():
    one, other = AdaptiveAugmentation(0.4, 1), AdaptiveAugmentation(0.4, 1)
    follow(one, [1.0] * 16, 6)
    other.load_state_dict(one.state_dict())
    assert follow(other, [1.0] * 16, 2) == follow(one, [1.0] * 16, 2) == pytest.approx(0.128)


def test_a_target_that_cannot_be_is_refused():
    with pytest.raises(MedsynthError, match="augmentation target is 1.5"):
        AdaptiveAugmentation(1.5, 1)
