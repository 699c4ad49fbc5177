from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import plain
from medsynth.models.volumes import augmentation
from medsynth.models.volumes.augmentation import (
    NUMBERS,
    SHIFT,
    TURN,
    deformed,
    moved,
    moved_segmentation,
    random_points,
)

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
        points, told = random_points(len(image), SIZE, "cpu")
    return moved(image if image.shape[2] > SIZE[0] else stored(image), points, told, 2), told


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
    points, numbers = random_points(2, SIZE, "cpu")
    found = moved(stored(image), points, numbers, 2)
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


@pytest.mark.parametrize("finer", [1, 2])
def test_image_and_label_map_never_part(finer, monkeypatch):
    """The image is white in one class and black elsewhere, whichever way both are moved."""
    monkeypatch.setitem(augmentation.SHARPENING, finer, 0.0)
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(12, 1, 7, 7, 7), [20 * finer] * 3, mode="trilinear")
    inside = coarse > 0.55
    points, numbers = random_points(12, SIZE, "cpu")
    images = moved(2 * inside.float() - 1, points, numbers, finer)
    one_by_one = zip(inside.split(1), points.split(1), numbers.split(1), strict=True)
    maps = torch.cat([moved_segmentation(2 * one, *how, ["", "a", "b"], finer) for one, *how in one_by_one])
    gamma = (augmentation.GAMMA * numbers[:, 11]).exp().view(-1, 1, 1, 1, 1)
    shares = ((images + 1) / 2) ** (1 / gamma)
    clear = (shares - 0.5).abs() > 1e-4  # where it is grey, either class is right
    assert torch.equal((shares > 0.5)[clear], (maps == 2)[clear])
    assert ((maps == 2) != (plain(inside.float(), SIZE, finer) > 0.5)).float().mean() > 0.05


def test_a_mirrored_map_keeps_left_left_where_names_have_sides(monkeypatch):
    left = torch.zeros(1, 1, 20, 20, 20)
    left[:, :, 12:], left[:, :, :3] = 1, 3
    points, numbers = random_points(1, SIZE, "cpu")
    numbers.zero_()[:, 0] = 1
    points = augmentation._points(numbers, torch.zeros(1, 3, 5, 5, 5), SIZE)
    sided = moved_segmentation(left, points, numbers, ["background", "left lung", "right lung", "heart"])
    plain_names = moved_segmentation(left, points, numbers, ["background", "a", "b", "heart"])
    assert sided[0, 0, :, 5, 5].tolist() == [2] * 6 + [0] * 9 + [3]
    assert plain_names[0, 0, :, 5, 5].tolist() == [1] * 6 + [0] * 9 + [3]


def test_deformed_maps_differ_by_their_seed_and_strength_and_hold_the_same_classes():
    box = torch.zeros(1, *SIZE, dtype=torch.uint8)
    box[:, 4:8, 4:12, 4:12], box[:, 8:12, 4:12, 4:12] = 1, 2
    names = ["background", "left lobe", "right lobe"]
    one, same, other = (deformed(box, names, 1.0, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.uint8
    assert set(one.unique().tolist()) == {0, 1, 2}
    weak, strong = (sum((deformed(box, names, by, seed) != box).float().mean() for seed in range(8)) for by in (0.7, 2))
    assert 0 < weak < strong
