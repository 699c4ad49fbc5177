"""Label maps as a condition of a flow over latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MEANS = {2: F.avg_pool2d, 3: F.avg_pool3d}  # by the axes of a map


def one_hot(indices: Tensor, classes: int) -> Tensor:
    """Indices (N, 1, ...) of the classes, whole numbers of any type -> (N, classes, ...) of 0 and 1, float32."""
    numbers = torch.arange(classes, device=indices.device)
    return (indices.long() == numbers.view(-1, *(1,) * (indices.ndim - 2))).float()


def channels_of(classes: int, axes: int = 2) -> int:
    """Of what `at_latents` returns for maps of so many axes; 0 where there are no label maps."""
    return 2**axes * classes + 1 if classes else 0


def at_latents(shares: Tensor, factor: int) -> Tensor:
    """What a flow is told of label maps: the share of each class in the parts of each place, and ones.

    A place has four quarters, or, in volumes, eight parts: they say where in it a border runs. The ones say that there
    is a label map: all is 0 for an image without.

    Args:
        shares: (N, classes, H, W) or (N, classes, X, Y, Z), from 0 to 1.
        factor: pixels or voxels a side of a place, an even number.

    Returns: (N, 4 * classes + 1, H / factor, W / factor), or (N, 8 * classes + 1, X / factor, ...).
    """
    axes = shares.ndim - 2
    means = MEANS[axes](shares, factor // 2)
    apart = means.reshape(*means.shape[:2], *(number for length in means.shape[2:] for number in (length // 2, 2)))
    outer, inner = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    parts = apart.permute(0, 1, *inner, *outer).flatten(1, 1 + axes)
    return torch.cat([parts, torch.ones_like(parts[:, :1])], dim=1)


def moved_shares(shares: Tensor, grid: Tensor) -> Tensor:
    """Sample shares (N, classes, H, W) at the points of a grid (N, H, W, 2); what comes in from outside is class 0."""
    others = F.grid_sample(shares[:, 1:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.cat([1 - others.sum(dim=1, keepdim=True), others], dim=1)


def told(indices: Tensor, classes: int, factor: int, grid: Tensor | None = None) -> Tensor:
    """What `at_latents` makes of label maps (N, 1, H, W), sampled at the points of a grid if there is one."""
    shares = one_hot(indices, classes)
    return at_latents(shares if grid is None else moved_shares(shares, grid), factor)
