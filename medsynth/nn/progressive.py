"""Progressively growing networks: they work at 8 x 8 pixels first, then at 16 x 16, and so on up to the full size.

Reference: Karras et al., PGGAN, arXiv:1710.10196.
"""

from __future__ import annotations

import torch
from torch import nn

from medsynth.errors import MedsynthError
from medsynth.nn.blocks import image_levels

SMALLEST = 8  # pixels per side of the first images
PIXELS = 4  # of an image per position of the features' grid, which has half as many positions per side
ARCHITECTURES = ("progressive", "skip")


def resolutions_up_to(image_size: int) -> list[int]:
    """8, 16, ... `image_size`.

    Raises:
        MedsynthError: if that is no power of two times 4, or less than 16.
    """
    return [SMALLEST * 2**level for level in range(image_levels(image_size))]


def widths_up_to(image_size: int, channels: int) -> list[int]:
    """Features at each resolution: `channels` at the finest; they double as the grid halves, at most to 4 times."""
    levels = len(resolutions_up_to(image_size))
    return [channels * min(2 ** (levels - 1 - level), 4) for level in range(levels)]


class Growing(nn.Module):
    """The resolution, and how far it has faded in; both are buffers, so that they are saved with the weights."""

    def __init__(self, image_size: int, architecture: str) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise MedsynthError(f"architecture is {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
        self.image_size, self.is_progressive = image_size, architecture == "progressive"
        self.register_buffer("resolution", torch.tensor(image_size))
        self.register_buffer("alpha", torch.tensor(1.0))

    def grow_to(self, resolution: int, alpha: float) -> None:
        """Work at `resolution` pixels per side, of which a share `alpha` has faded in."""
        self.resolution.fill_(resolution)
        self.alpha.fill_(alpha)

    def level(self) -> int:
        """Number of the resolution, from 0 on."""
        return (int(self.resolution) // SMALLEST).bit_length() - 1
