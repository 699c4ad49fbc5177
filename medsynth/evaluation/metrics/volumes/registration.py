"""Volumes laid over each other: affinely, then with a small smooth bend. Many pairs at a time, by gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.evaluation.metrics.texture import FOREGROUND

KNOTS = 5  # control points of the bend along an axis
AFFINE_STEPS, ELASTIC_STEPS = 40, 40
RATE = 0.01  # of Adam, in half lengths of the volume
STIFFNESS = 2.0  # weight of the mean square of the bend: 0.02 of a half length costs as much as 0.001 of correlation
TURN, SCALE, SHIFT, BEND, GAMMA = math.radians(5), 0.04, 0.06, 0.024, 0.15  # of `disguised`; shift and bend likewise


@dataclass(frozen=True)
class Fit:
    """Where the voxels of N volumes come from.

    Args:
        matrices: (N, 3, 4), as `affine_grid` takes them.
        knots: (N, 3, k, k, k), what is added, smoothly between its control points; None: nothing.
    """

    matrices: Tensor
    knots: Tensor | None = None

    def __call__(self, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Volumes (N, 1, X, Y, Z) of any size brought there, and where they do not come from outside of them."""
        places = F.affine_grid(self.matrices, (len(moving), 1, *moving.shape[2:]), align_corners=False)
        if self.knots is not None:
            bend = F.interpolate(self.knots, size=moving.shape[2:], mode="trilinear", align_corners=False)
            places = places + bend.movedim(1, -1)
        warped = F.grid_sample(moving, places, mode="bilinear", padding_mode="border", align_corners=False)
        return warped, (places.detach().abs() <= 1).all(dim=-1)[:, None]


def fit(moving: Tensor, fixed: Tensor, elastic: bool = False) -> Fit:
    """Lay volumes (N, 1, X, Y, Z) over fixed ones of the same shape, or over one of them."""
    count, fixed = len(moving), fixed.expand(len(moving), *fixed.shape[1:])
    matrices = torch.eye(3, 4, device=moving.device).repeat(count, 1, 1).requires_grad_()
    knots = torch.zeros(count, 3, KNOTS, KNOTS, KNOTS, device=moving.device, requires_grad=True) if elastic else None
    optimizer = torch.optim.Adam([matrices, *([knots] if elastic else [])], lr=RATE)
    steps = ELASTIC_STEPS if elastic else AFFINE_STEPS
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    with torch.enable_grad():
        for _ in range(steps):
            warped, inside = Fit(matrices, knots)(moving)
            loss = (1 - correlation(warped, fixed, _patient(warped, fixed) & inside)).sum()
            if elastic:
                loss = loss + STIFFNESS * knots.square().mean(dim=(1, 2, 3, 4)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Fit(matrices.detach(), None if knots is None else knots.detach())


def correlation(first: Tensor, second: Tensor, where: Tensor) -> Tensor:
    """(N,) Pearson correlations of volumes (N, 1, X, Y, Z) where a mask is true."""
    where = where.to(first.dtype)
    count = where.sum(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1)
    centred = [(one - (one * where).sum(dim=(1, 2, 3, 4), keepdim=True) / count) * where for one in (first, second)]
    products = (centred[0] * centred[1]).sum(dim=(1, 2, 3, 4))
    squares = [one.square().sum(dim=(1, 2, 3, 4)) for one in centred]
    return products / (squares[0] * squares[1]).clamp_min(1e-12).sqrt()


def detail_distance(warped: Tensor, fixed: Tensor, inside: Tensor) -> Tensor:
    """(N,) sqrt(1 - correlation) of fine detail: what is left when the mean of 5 x 5 x 5 voxels is taken away.

    Heads are alike in their large parts once they lie over each other; gyri and vessels are a person's own.
    """
    where = _patient(warped, fixed) & inside
    found = correlation(*(one - _smooth(one) for one in (warped, fixed)), where)
    return (1 - found).clamp_min(0).sqrt()


def disguised(volumes: Tensor, seed: int) -> Tensor:
    """Volumes (N, 1, X, Y, Z) in [0, 1] turned, scaled, shifted, bent and brightened, half of them mirrored, too."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=random) - 1

    count = len(volumes)
    half = torch.tensor([length / 2 for length in reversed(volumes.shape[2:])])  # as `grid_sample` orders axes
    turns = torch.zeros(count, 3, 3)
    for axis, angle in enumerate((TURN * draw(count, 3)).T):
        first, second = (other for other in range(3) if other != axis)
        turns[:, first, second], turns[:, second, first] = -angle, angle
    matrices = torch.matrix_exp(turns) @ torch.diag_embed(1 + SCALE * draw(count, 3))
    matrices = torch.cat([matrices * half / half[:, None], SHIFT * draw(count, 3, 1)], dim=2)
    matrices[::2, :, 2] *= -1  # the last of the three is the axis from left to right
    knots = BEND * torch.randn(count, 3, KNOTS, KNOTS, KNOTS, generator=random)
    gamma = (GAMMA * draw(count, 1, 1, 1, 1)).exp().to(volumes.device)
    return Fit(matrices.to(volumes.device), knots.to(volumes.device))(volumes)[0].clamp(0, 1) ** gamma


def _patient(first: Tensor, second: Tensor) -> Tensor:
    return (first.detach() > FOREGROUND) | (second > FOREGROUND)


def _smooth(volumes: Tensor) -> Tensor:
    return F.avg_pool3d(F.pad(volumes, [2] * 6, mode="replicate"), 5, stride=1)
