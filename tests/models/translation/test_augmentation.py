from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.translation.augmentation import Augmentation


def ramp(count: int = 64, size: int = 16) -> torch.Tensor:
    """Columns from -1 to 1."""
    return torch.linspace(-1, 1, size).expand(count, 1, size, size).clone()


def test_nothing_asked_for_changes_nothing():
    image = torch.rand(4, 1, 8, 8)
    assert torch.equal(Augmentation(flip=False)([image], [False])[0], image)


def test_half_of_the_images_are_mirrored_and_both_of_a_pair_alike():
    torch.manual_seed(0)
    source, target = Augmentation(flip=True)([ramp(), 0.5 * ramp()], [False, True])
    mirrored = source[:, 0, 0, 0] > 0
    assert 16 < mirrored.sum() < 48
    assert torch.equal(source[mirrored], ramp().flip(-1)[mirrored])
    assert torch.equal(target, 0.5 * source)


@pytest.mark.parametrize("kind", ["rotation_degrees", "scaling", "shift"])
def test_a_pair_moves_together_on_whatever_grids(kind):
    torch.manual_seed(0)
    augment = Augmentation(flip=True, **{kind: 10.0 if kind == "rotation_degrees" else 0.1})
    fine = torch.zeros(8, 1, 64, 64)
    fine[:, :, 20:36, 12:28] = 1
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    moved_fine, moved_coarse = augment([fine, coarse], [False, False])
    assert (moved_fine - fine).abs().amax(dim=(1, 2, 3)).min() > 0.05
    assert (torch.nn.functional.avg_pool2d(moved_fine, 2) - moved_coarse).abs().mean() < 0.01


def test_a_shift_is_a_share_of_the_side():
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 41, 41)
    image[..., 20, 20] = 1
    moved = Augmentation(flip=False, shift=0.1)([image], [False])[0][:, 0]
    rows = (moved.sum(2) * torch.arange(41)).sum(1) / moved.sum((1, 2))
    assert (rows - 20).abs().max() == pytest.approx(4.1, abs=0.15)


def test_contrast_bends_what_has_no_unit_and_keeps_black_white_and_order():
    torch.manual_seed(0)
    source, target = Augmentation(flip=False, contrast=0.3)([ramp(), ramp()], [False, True])
    assert torch.equal(target, ramp())
    assert source[..., 0].eq(-1).all()
    assert source[..., -1].eq(1).all()
    assert (source.diff(dim=-1) > 0).all()
    assert (source - ramp()).abs().max() > 0.1


def test_doubled_keeps_each_image_beside_its_changed_copy():
    torch.manual_seed(0)
    both = Augmentation(flip=True, doubled=True)([ramp(8)], [False])[0]
    assert both.shape == (16, 1, 16, 16)
    assert torch.equal(both[:8], ramp(8))
    assert not torch.equal(both[8:], ramp(8))


@pytest.mark.parametrize("mistake", [{"scaling": 2.0}, {"shift": -0.1}, {"contrast": "much"}])
def test_what_makes_no_sense_is_told(mistake):
    with pytest.raises(MedsynthError, match=f"augmentation#{next(iter(mistake))}"):
        Augmentation(**mistake)
