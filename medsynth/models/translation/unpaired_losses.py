"""Losses for images without partner: distributions of values at each pixel, and edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.losses.similarity import mean_in_head

SCALES = 4  # of the values at a pixel: single pixels, and means of 2 x 2, 4 x 4 and 8 x 8
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (2, 2), (2, -2), (-2, 2), (-2, -2))  # pixels to the patches it compares
WINDOW = 3  # pixels per side, of the patches that are compared
FLAT = 1e-3  # mean squared difference below which a patch counts as flat; of intensities in [-1, 1]


def pixel_distribution_distance(fake: Tensor, real: Tensor, mask: Tensor, variety: float) -> Tensor:
    """Mean over pixels of the energy distance between the values that two sets of images take there.

    Heads lie at similar coordinates in all images, so at each pixel translations should be as bright, and as varied, as
    real images of other patients.

    Args:
        fake, real: (N, 1, H, W) and (M, 1, H, W) in [-1, 1], of one slice position; N at least 2.
        mask: (1, 1, H, W), 1 inside the patients and 0 outside, where the distance counts a little.
        variety: weight of the variety of the fake images. With 1 this is the energy distance, which is lowest for equal
            distributions; less favours values nearer to the median, which err less.

    Returns: a scalar; with a variety of 1, its mean is 0 for equal distributions.

    Reference: Székely & Rizzo, Energy statistics, J. Stat. Plan. Inference 143 (2013), eq. 5.
    """
    fake, real = fake.float(), real.float()
    distances = []
    for scale in range(SCALES):
        if scale:
            fake, real, mask = (F.avg_pool2d(images, 2) for images in (fake, real, mask))
        across = (fake[:, None] - real[None]).abs().mean(dim=(0, 1))
        distance = 2 * across - variety * _mean_difference(fake) - _mean_difference(real)
        distances.append(mean_in_head(distance[None], mask))
    return torch.stack(distances).mean()


def _mean_difference(images: Tensor) -> Tensor:
    """(N, 1, H, W) -> (1, H, W), mean absolute difference of two images at each pixel; 0 for a single one."""
    one, other = torch.triu_indices(len(images), len(images), 1, device=images.device)
    return (images[one] - images[other]).abs().sum(dim=0) / max(len(one), 1)


def structure_distance(image: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Mean difference of the self-similarity of two images, which compares edges whatever the contrast; 0 to 1.

    Args:
        image, other: (N, 1, H, W) in [-1, 1].
        mask: (N, 1, H, W) or (1, 1, H, W), 1 inside the patient and 0 outside, which counts a little.

    Reference: Heinrich et al., MIND, Medical Image Analysis 16 (2012), eq. 4; to keep the structure of a translation,
    Yang et al., arXiv:1809.04536.
    """
    difference = (self_similarity(image) - self_similarity(other)).abs().mean(dim=1, keepdim=True)
    return mean_in_head(difference, mask)


def self_similarity(image: Tensor) -> Tensor:
    """Similarity of the patch around each pixel of (N, 1, H, W) to patches nearby, (N, 8, H, W) from 0 to 1: MIND.

    Differences are relative to their mean at each pixel, so that contrast and its sign don't matter.
    """
    image = image.float()
    squares = torch.cat([(image - image.roll(step, dims=(2, 3))).square() for step in STEPS], dim=1)
    distances = F.avg_pool2d(squares, WINDOW, 1, WINDOW // 2)
    return (-distances / (distances.mean(dim=1, keepdim=True) + FLAT)).exp()
