"""Paths between two latent vectors."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 9  # images of a strip, its two ends among them


def great_circle(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Go a share of the path between latent vectors (1, features) at even angles, length and direction both in step.

    A straight line would cut through the middle of the latent space, where there are no images.

    Reference: White, arXiv:1609.04468, section 2.2 (spherical interpolation).
    """
    cosine = torch.cosine_similarity(start, end)
    angle = cosine.clamp(-1, 1).acos()
    if angle.sin() < 1e-4:
        return start.lerp(end, share)
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
