"""Paths between two latent vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

STEPS = 9  # images of a strip, its two ends among them


def strip_facts(strips: int) -> Iterator[dict[str, Any]]:
    """For sidecars and images.csv: which strip an image is of, and which step of it, both from 0."""
    yield from ({"Strip": strip, "Step": step} for strip in range(strips) for step in range(STEPS))


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
