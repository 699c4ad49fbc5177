"""Volumes moved in ways that a flow is told, each sampled once from the finer stored voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import FINER, plain

NUMBERS = 12  # that a moved volume is described by: mirror, three turns, scales and shifts, bend, gamma
MOVED = 0.7  # share of the volumes
TURN, SCALE, SHIFT = math.radians(5), 0.04, 0.03  # largest of each; of shifts, share of the length
BEND, KNOTS = 0.012, 5  # deviation of the bend, share of the length; its control points along an axis
GAMMA = 0.15  # largest logarithm
SHARPENING = {1: 0.13, 2: 0.035}
"""By how many times as fine the stored voxels are: weights of both neighbours along each axis, which make up for what
interpolation blurs. Of 2.7 and 0.8 dB of spectrum, 0.2 and 0.1 dB are left, on T1 heads at 4 mm."""


def moved(stored: Tensor, size: Sequence[int], finer: int) -> tuple[Tensor, Tensor]:
    """Mirror, turn, scale, shift, bend and brighten a share of the volumes, each in its own way.

    Args:
        stored: (N, 1, ...) in [-1, 1], `finer` times as fine as the grid, with margins.
        size: of the grid.

    Returns: volumes (N, 1, *size), and `NUMBERS` about each, all 0 of one that is as it was.

    Reference: Karras et al., EDM, arXiv:2206.00364, section 5.
    """
    count, device = len(stored), stored.device
    chosen = (torch.rand(count, 1, device=device) < MOVED).float()
    numbers = (2 * torch.rand(count, NUMBERS, device=device) - 1) * chosen
    numbers[:, 0] = (numbers[:, 0] > 0).float()
    numbers[:, 10] = numbers[:, 10].abs()
    lengths = torch.tensor(size, dtype=torch.float32, device=device)
    centred = [torch.arange(length, device=device) - (length - 1) / 2 for length in size]
    points = torch.stack(torch.meshgrid(*centred, indexing="ij"), dim=-1)  # in voxels of the grid, from its middle
    matrices = _matrices(numbers)
    points = torch.einsum("nij,xyzj->nxyzi", matrices, points) + _wide(SHIFT * numbers[:, 7:10] * lengths)
    waves = torch.randn(count, 3, KNOTS, KNOTS, KNOTS, device=device) * _wide(numbers[:, 10:11]).movedim(-1, 1)
    bend = F.interpolate(waves, size=tuple(size), mode="trilinear", align_corners=True).movedim(1, -1)
    points = points + BEND * bend * lengths
    means = stored
    for axis in (2, 3, 4) if finer == FINER else ():  # a tenth of the time that `avg_pool3d` takes on a CPU
        few = stored.shape[axis] - 1
        means = means.narrow(axis, 0, few).lerp(means.narrow(axis, 1, few), 0.5)
    last = torch.tensor(means.shape[2:], device=device) - 1
    # a point in the middle of the grid is in the middle of the stored voxels
    places = (2 * finer * points / last).flip(-1)
    sampled = F.grid_sample(means, places, mode="bilinear", padding_mode="border", align_corners=True)
    sampled = (_sharpened(sampled, SHARPENING[finer]) + 1).clamp(0, 2) / 2
    brightened = sampled.clamp_min(1e-6) ** (GAMMA * numbers[:, 11]).exp()[:, None, None, None, None] * 2 - 1
    return torch.where(_wide(chosen) > 0, brightened, plain(stored, size, finer)), numbers


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
