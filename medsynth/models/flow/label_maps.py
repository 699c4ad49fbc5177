"""Label maps as a condition of a flow over latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = 4  # of a place of the latents, each with its own shares of the classes


def one_hot(indices: Tensor, classes: int) -> Tensor:
    """Indices (N, 1, H, W) of the classes, whole numbers of any type -> (N, classes, H, W) of 0 and 1, float32."""
    return (indices.long() == torch.arange(classes, device=indices.device).view(1, -1, 1, 1)).float()


def channels_of(classes: int) -> int:
    """Of what `at_latents` returns; 0 where there are no label maps."""
    return PARTS * classes + 1 if classes else 0


def at_latents(shares: Tensor, factor: int) -> Tensor:
    """What a flow is told of label maps: the share of each class in the four quarters of each place, and ones.

    The ones say that there is a label map: all is 0 for an image without. Quarters say where in it a border runs.

    Args:
        shares: (N, classes, H, W), from 0 to 1.
        factor: pixels a side of a place, an even number.

    Returns: (N, 4 * classes + 1, H / factor, W / factor).
    """
    quarters = F.pixel_unshuffle(F.avg_pool2d(shares, factor // 2), 2)
    return torch.cat([quarters, torch.ones_like(quarters[:, :1])], dim=1)


def moved_shares(shares: Tensor, grid: Tensor) -> Tensor:
    """Sample shares (N, classes, H, W) at the points of a grid (N, H, W, 2); what comes in from outside is class 0."""
    others = F.grid_sample(shares[:, 1:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.cat([1 - others.sum(dim=1, keepdim=True), others], dim=1)
