from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import plain
from medsynth.models.volumes import augmentation
from medsynth.models.volumes.augmentation import NUMBERS, SHIFT, TURN, moved

SIZE, EDGE = (16, 16, 16), 2  # of the grid, and its margin, in its voxels


def stored(image: Tensor) -> Tensor:
    """A volume on the grid, as it is stored: twice as fine, with margins of air."""
    fine = image
    for axis in (2, 3, 4):
        fine = fine.repeat_interleave(2, dim=axis)
    return torch.nn.functional.pad(fine, [2 * EDGE] * 6, value=-1)


def blob(*centre: float) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")
    away = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    return (2 * torch.exp(-away / 4) - 1)[None, None]


def moved_by(monkeypatch: pytest.MonkeyPatch, image: Tensor, **numbers: float) -> tuple[Tensor, Tensor]:
    """Moved for certain, by these of the numbers; the mirror is 1 for it. `image` may be stored already."""
    chosen = torch.full((len(image), NUMBERS), 0.5)
    chosen[:, 0] = 0.25  # no mirror
    for name, number in numbers.items():
        chosen[:, int(name[1:])] = (number + 1) / 2
    draws = iter([torch.zeros(len(image), 1), chosen])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **_: next(draws).clone())
        return moved(image if image.shape[2] > SIZE[0] else stored(image), SIZE, 2)


def centre(image: Tensor) -> list[float]:
    weights = (image[0, 0] + 1).clamp_min(0.2) - 0.2
    axes = torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")
    return [float((axis * weights).sum() / weights.sum()) for axis in axes]


def test_plain_volumes_are_the_means_of_the_stored_voxels_without_margins():
    image = torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(plain(stored(image), SIZE, 2), image)
    torch.testing.assert_close(plain(torch.nn.functional.pad(image, [EDGE] * 6), SIZE, 1), image)


def test_a_volume_that_is_not_chosen_is_as_it_is_and_its_numbers_are_0(monkeypatch):
    monkeypatch.setattr(augmentation, "MOVED", 0.0)
    image = torch.randn(2, 1, *SIZE).clamp(-1, 1)
    found, numbers = moved(stored(image), SIZE, 2)
    torch.testing.assert_close(found, image)
    assert not numbers.any()


def test_a_mirror_changes_left_and_right_alone(monkeypatch):
    found, numbers = moved_by(monkeypatch, blob(4, 6, 9), _0=1)
    assert centre(found) == pytest.approx([11, 6, 9], abs=0.05)
    assert numbers[0, 0] == 1


def test_what_is_in_the_middle_of_a_shifted_volume_was_a_shift_away(monkeypatch):
    found, _ = moved_by(monkeypatch, blob(7.5, 7.5, 7.5), _7=1, _9=-1)
    assert centre(found) == pytest.approx([7.5 - 16 * SHIFT, 7.5, 7.5 + 16 * SHIFT], abs=0.05)


@pytest.mark.parametrize(("number", "axis"), [("_1", 0), ("_2", 1), ("_3", 2)])
def test_a_turn_leaves_its_own_axis_and_the_distance_from_the_middle(monkeypatch, number, axis):
    found, _ = moved_by(monkeypatch, blob(10.5, 10.5, 10.5), **{number: 1})
    away = [place - 7.5 for place in centre(found)]
    assert away[axis] == pytest.approx(3, abs=0.05)
    others = [away[other] for other in range(3) if other != axis]
    assert math.hypot(*others) == pytest.approx(3 * 2**0.5, abs=0.05)
    angle = math.atan2(others[1], others[0]) - math.pi / 4
    assert abs(angle) == pytest.approx(TURN, abs=0.02)


def test_half_a_voxel_away_most_of_the_finest_detail_is_kept(monkeypatch):
    torch.manual_seed(0)
    fine = torch.nn.functional.interpolate(torch.rand(4, 1, 12, 12, 12), size=(40, 40, 40), mode="trilinear") * 2 - 1
    found, _ = moved_by(monkeypatch, fine, _7=1)
    steps = [volume.diff(dim=2).abs().mean() for volume in (found, plain(fine, SIZE, 2))]
    assert 0.9 < steps[0] / steps[1] < 1.1
