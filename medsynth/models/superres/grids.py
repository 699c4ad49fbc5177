"""The two grids of a super-resolution, and how images pass between them: in the plane, or through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.nn.resampling import average, repeat, spline, truncate, zero_fill
from medsynth.nn.slice_profile import Profile, from_slices, put_back, repeat_slices

BASES = {"kspace": zero_fill, "area": spline}
"""The interpolation of each kind of coarse image."""
INVERSES = {"kspace": (truncate, partial(zero_fill, outermost=0.0)), "area": (average, repeat)}
"""The degradation of each kind, and the smallest change of a fine image that makes a given change of its coarse one."""


@dataclass(frozen=True)
class PixelGrids:
    """In the plane: rows and columns are `scale` times as many.

    Args:
        scale: 2 or 4.
        degradation: `kspace` or `area`.
    """

    scale: int
    degradation: str
    channels = 1

    @property
    def step(self) -> int:
        """Fine pixels per side of one pixel that the network computes on."""
        return self.scale

    def fine(self, sides: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the fine image over a coarse one of these."""
        return self.scale * sides[0], self.scale * sides[1]

    def interpolation(self, images: Tensor) -> Tensor:
        """Coarse -> fine."""
        return BASES[self.degradation](images, self.scale)

    def nearest(self, images: Tensor) -> Tensor:
        """Coarse -> fine, the coarse pixels as they are."""
        return repeat(images, self.scale)

    def consistent(self, fine: Tensor, images: Tensor) -> Tensor:
        """The nearest image that gives the coarse ones."""
        down, up = INVERSES[self.degradation]
        return fine + up(images - down(fine, self.scale), self.scale)

    def seen(self, images: Tensor) -> Tensor:
        """What the network sees of coarse images, neighbours included: all as it is."""
        return images


@dataclass(frozen=True)
class SliceGrids:
    """Through the plane: rows are slices, `scale` times as many of which are made; columns stay.

    The network sees the interpolation, and where between the slices each row lies: every 2 x 2 pixels are one that it
    computes on, with as many channels.

    Args:
        scale: distance between slices over the fine spacing; need not be whole.
        degradation: profile of the slices: `box`, `gaussian` or weights.
        fill: thickness over the distance between slices.
    """

    scale: float
    degradation: Profile
    fill: float
    channels = 12
    step = 2

    def fine(self, sides: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the fine image over as many slices and columns."""
        return round(sides[0] * self.scale), sides[1]

    def interpolation(self, images: Tensor) -> Tensor:
        """(..., slices, columns) -> (..., rows, columns), by cubic splines."""
        return from_slices(images, self.fine(images.shape[-2:])[0])

    def nearest(self, images: Tensor) -> Tensor:
        """The same, each row that of the nearest slice."""
        return repeat_slices(images, self.fine(images.shape[-2:])[0])

    def consistent(self, fine: Tensor, images: Tensor) -> Tensor:
        """The nearest image whose means over the slices are those measured."""
        return put_back(images, fine, self.degradation, self.fill)

    def seen(self, images: Tensor) -> Tensor:
        """(N, 1, slices, columns) -> (N, 12, rows / 2, columns / 2), rounded up, in [-1, 1]; air stays -1."""
        fine = self.interpolation(images).clamp(-1, 1) + 1
        rows, columns = fine.shape[2:]
        place = 2 * math.pi * torch.arange(rows, device=fine.device).add(0.5)[:, None] * images.shape[2] / rows
        views = torch.cat([fine, fine * (1 + place.cos()) / 2, fine * (1 + place.sin()) / 2], dim=1) - 1
        return F.pixel_unshuffle(F.pad(views, (0, columns % 2, 0, rows % 2), mode="replicate"), 2)
