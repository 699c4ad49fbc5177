"""Random symmetries and patches of a batch of images, on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_symmetry(images: Tensor, draws: Tensor) -> Tensor:
    """Rotate and mirror images by the eight symmetries of a square.

    Args:
        images: (N, C, side, side).
        draws: (N,), uniform in [0, 1), which choose the symmetries.

    Returns: the same shape.
    """
    turned = torch.empty_like(images)
    for number in range(8):
        some = ((8 * draws).long() == number).nonzero().squeeze(1).to(images.device)
        part = torch.rot90(images[some], number % 4, (2, 3))
        turned[some] = part.flip(-1) if number >= 4 else part
    return turned


def random_patches(views: Sequence[Tensor], side: int, likely: Tensor, draws: Tensor) -> list[Tensor]:
    """Crop one square patch of each image, at the same location in all views.

    Args:
        views: (N, C, s * H, s * W) each, over one field of view, on grids finer than `likely` by whole factors s.
        side: of a patch, in pixels of `likely`.
        likely: (N, 1, H, W), where patches are centred in proportion to these weights, as far as the edges allow.
        draws: (N,), uniform in [0, 1), which choose the centres.

    Returns: (N, C, s * side, s * side) of each view.
    """
    rows, columns = likely.shape[-2:]
    shares = (likely.flatten(1).double() + 1e-9).cumsum(dim=1).cpu()
    centres = torch.searchsorted(shares, draws[:, None] * shares[:, -1:], right=True).squeeze(1)
    tops = (centres // columns - side // 2).clamp(0, rows - side).tolist()
    lefts = (centres % columns - side // 2).clamp(0, columns - side).tolist()
    patches = []
    for view in views:
        s = view.shape[-1] // columns
        corners = zip(view, tops, lefts, strict=True)
        patches.append(torch.stack([x[:, s * i : s * (i + side), s * j : s * (j + side)] for x, i, j in corners]))
    return patches
