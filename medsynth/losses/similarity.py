"""How far two images are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import SSIMLoss
from torch import Tensor


def structural_dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM of images in [-1, 1]; 0 is identical. Window 7 x 7, uniform."""
    ssim = SSIMLoss(spatial_dims=2, data_range=2.0, win_size=7, kernel_type="uniform")
    return ssim(image.float(), target.float())


def feature_distance(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a critic's features, each layer relative to the target's mean magnitude.

    Reference: Larsen et al., arXiv:1512.09300, eq. 6, with all layers and an L1 distance.
    """
    layers = [
        (mine - theirs).abs().mean() / (theirs.abs().mean() + 1e-6)
        for mine, theirs in zip(features, target, strict=True)
    ]
    return torch.stack(layers).mean()
