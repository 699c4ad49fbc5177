"""Volumes and their label maps moved in ways that a flow is told, each sampled once from the finer stored voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.data.preprocessing.transforms import of_each_class
from medsynth.data.preprocessing.volume_grid import FINER, plain, plain_segmentation
from medsynth.models.flow.deformation import opposites

NUMBERS = 12  # that a moved volume is described by: mirror, three turns, scales and shifts, bend, gamma
MOVED = 0.7  # share of the volumes
TURN, SCALE, SHIFT = math.radians(5), 0.04, 0.03  # largest of each; of shifts, share of the length
BEND, KNOTS = 0.012, 5  # deviation of the bend, share of the length; its control points along an axis
GAMMA = 0.15  # largest logarithm
SHARPENING = {1: 0.13, 2: 0.035}
"""By how many times as fine the stored voxels are: weights of both neighbours along each axis, which make up for what
interpolation blurs. Of 2.7 and 0.8 dB of spectrum, 0.2 and 0.1 dB are left, on T1 heads at 4 mm."""


def random_points(count: int, size: Sequence[int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """How to mirror, turn, scale, shift, bend and brighten a share of `count` volumes, each in its own way.

    Returns: the points that the voxels of a grid of a size show, (count, *size, 3), in its voxels from its middle; and
        `NUMBERS` about each volume, all 0 of one that stays as it is.

    Reference: Karras et al., EDM, arXiv:2206.00364, section 5.
    """
    chosen = (torch.rand(count, 1, device=device) < MOVED).float()
    numbers = _numbers(torch.rand(count, NUMBERS, device=device), chosen)
    return _points(numbers, torch.randn(count, 3, KNOTS, KNOTS, KNOTS, device=device), size), numbers


def moved(stored: Tensor, points: Tensor, numbers: Tensor, finer: int) -> Tensor:
    """Sample volumes at `random_points`, and brighten them; those whose numbers are all 0 are as they were.

    Args:
        stored: (N, 1, ...) in [-1, 1], `finer` times as fine as the grid, with margins.

    Returns: (N, 1, *size).
    """
    sampled = _sharpened(_sampled(stored, points, finer), SHARPENING[finer])
    sampled = (sampled + 1).clamp(0, 2) / 2
    brightened = sampled.clamp_min(1e-6) ** (GAMMA * numbers[:, 11]).exp()[:, None, None, None, None] * 2 - 1
    is_moved = _wide(numbers.any(dim=1, keepdim=True))
    return torch.where(is_moved, brightened, plain(stored, points.shape[1:4], finer))


def moved_segmentation(stored: Tensor, points: Tensor, numbers: Tensor, names: Sequence[str], finer: int = 1) -> Tensor:
    """The same of one label map: each voxel gets the class of the largest share.

    Args:
        stored: (1, 1, ...), indices of the classes, as `moved` takes volumes.
        names: of the classes; those of a mirrored map that differ in left and right alone are exchanged.

    Returns: (1, 1, *size), uint8.
    """
    stored = stored.to(torch.uint8)  # where each class is, is found in a third of the time
    if not numbers.any():
        return plain_segmentation(stored, points.shape[1:4], finer)
    found = of_each_class(stored, lambda share: _sampled(share, points, finer))
    if not numbers[0, 0]:
        return found
    return torch.tensor(opposites(names), dtype=torch.uint8, device=found.device)[found.long()]


def deformed(indices: Tensor, names: Sequence[str], strength: float, seed: int) -> Tensor:
    """A label map (1, X, Y, Z) that is moved, bent and, half of the time, mirrored.

    Args:
        strength: 1: as far as training volumes are.
        seed: the same one gives the same label map.
    """
    random = torch.Generator().manual_seed(seed)
    numbers = _numbers(torch.rand(1, NUMBERS, generator=random), torch.full((1, 1), strength))
    waves = torch.randn(1, 3, KNOTS, KNOTS, KNOTS, generator=random)
    return moved_segmentation(indices[None], _points(numbers, waves, indices.shape[1:]), numbers, names)[0]


def _numbers(uniform: Tensor, strength: Tensor) -> Tensor:
    """(N, NUMBERS), from random numbers from 0 to 1."""
    numbers = (2 * uniform - 1) * strength
    numbers[:, 0] = (numbers[:, 0] > 0).float()
    numbers[:, 10] = numbers[:, 10].abs()
    return numbers


def _points(numbers: Tensor, waves: Tensor, size: Sequence[int]) -> Tensor:
    """The points that the voxels of a grid show of volumes that are moved so.

    Args:
        waves: (N, 3, KNOTS, KNOTS, KNOTS), normal noise: how to bend.
    """
    device = numbers.device
    lengths = torch.tensor(size, dtype=torch.float32, device=device)
    centred = [torch.arange(length, device=device) - (length - 1) / 2 for length in size]
    points = torch.stack(torch.meshgrid(*centred, indexing="ij"), dim=-1)
    points = torch.einsum("nij,xyzj->nxyzi", _matrices(numbers), points) + _wide(SHIFT * numbers[:, 7:10] * lengths)
    waves = waves * _wide(numbers[:, 10:11]).movedim(-1, 1)
    bend = F.interpolate(waves, size=tuple(size), mode="trilinear", align_corners=True).movedim(1, -1)
    return points + BEND * bend * lengths


def _sampled(stored: Tensor, points: Tensor, finer: int) -> Tensor:
    """Stored volumes at the points of a grid, linear between the means over a voxel of the grid."""
    means = stored
    for axis in (2, 3, 4) if finer == FINER else ():  # a tenth of the time that `avg_pool3d` takes on a CPU
        few = stored.shape[axis] - 1
        means = means.narrow(axis, 0, few).lerp(means.narrow(axis, 1, few), 0.5)
    last = torch.tensor(means.shape[2:], device=stored.device) - 1
    # a point in the middle of the grid is in the middle of the stored voxels
    places = (2 * finer * points / last).flip(-1)
    return F.grid_sample(means, places, mode="bilinear", padding_mode="border", align_corners=True)


def _matrices(numbers: Tensor) -> Tensor:
    """(N, 3, 3): mirror, scales, then turns about the three axes."""
    mirror, turns, scales = numbers[:, 0], TURN * numbers[:, 1:4], 1 + SCALE * numbers[:, 4:7]
    matrices = torch.diag_embed(scales * torch.stack([1 - 2 * mirror, *2 * [torch.ones_like(mirror)]], dim=1))
    for axis in range(3):
        first, second = (other for other in range(3) if other != axis)
        turn = torch.eye(3, device=numbers.device).repeat(len(numbers), 1, 1)
        turn[:, first, first] = turn[:, second, second] = turns[:, axis].cos()
        turn[:, first, second], turn[:, second, first] = -turns[:, axis].sin(), turns[:, axis].sin()
        matrices = turn @ matrices
    return matrices


def _sharpened(volumes: Tensor, share: float) -> Tensor:
    weights = torch.tensor([-share, 1 + 2 * share, -share], device=volumes.device)
    for axis in (2, 3, 4):
        shape = [3 if other == axis else 1 for other in range(5)]
        padding = [int(other == axis) for other in (4, 4, 3, 3, 2, 2)]
        volumes = F.conv3d(F.pad(volumes, padding, mode="replicate"), weights.view(shape))
    return volumes


def _wide(values: Tensor) -> Tensor:
    """(N, C) -> (N, 1, 1, 1, C)."""
    return values[:, None, None, None]
