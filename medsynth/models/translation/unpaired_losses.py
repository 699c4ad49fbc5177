"""What images of two domains tell of each other without showing the same patients: values at a place, and edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.losses.similarity import mean_in_head

SCALES = 4  # of the values at a place: single pixels, and means of 2 x 2, 4 x 4 and 8 x 8
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (2, 2), (2, -2), (-2, 2), (-2, -2))  # pixels to places it is compared with
WINDOW = 3  # pixels a side, of the patches that are compared
FLAT = 1e-3  # mean squared difference below which a place counts as flat; of intensities in [-1, 1]


def pixel_distribution_distance(fake: Tensor, real: Tensor, mask: Tensor, variety: float) -> Tensor:
    """How differently two sets of images are distributed at each place: energy distances of their values, averaged.

    Heads lie alike in all images, so that at each place translations must be as bright as real images of other
    patients are there; and as varied. That, at all places at once, tells which value stands for which.

    Args:
        fake, real: (N, 1, H, W) and (M, 1, H, W) in [-1, 1], of one height in the head; N at least 2.
        mask: (1, 1, H, W), 1 inside the heads and 0 outside, where the distance counts a little.
        variety: what the variety of the fake images counts. With 1 this is the energy distance, which is least where
            both sets are distributed alike; with less, values nearer to the median of what is likely err less.

    Returns: a scalar; with a variety of 1, 0 in the mean where both are distributed alike.

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
    """(N, 1, H, W) -> (1, H, W), how far two of them are apart at each place in the mean; 0 of a single one."""
    one, other = torch.triu_indices(len(images), len(images), 1, device=images.device)
    return (images[one] - images[other]).abs().sum(dim=0) / max(len(one), 1)


def structure_distance(image: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """How differently edges lie in two images of the same place, whatever their contrast; from 0 to 1, 0 is alike.

    Args:
        image, other: (N, 1, H, W) in [-1, 1].
        mask: (N, 1, H, W) or (1, 1, H, W), 1 inside the head and 0 outside, which counts a little.

    Reference: Heinrich et al., MIND, Medical Image Analysis 16 (2012), eq. 4; to keep the structure of a translation,
    Yang et al., arXiv:1809.04536.
    """
    difference = (self_similarity(image) - self_similarity(other)).abs().mean(dim=1, keepdim=True)
    return mean_in_head(difference, mask)


def self_similarity(image: Tensor) -> Tensor:
    """How alike the patch around each pixel of (N, 1, H, W) is to patches nearby, (N, 8, H, W) from 0 to 1: MIND.

    A place's differences count relative to their mean there, so that contrast and its sign don't matter.
    """
    image = image.float()
    squares = torch.cat([(image - image.roll(step, dims=(2, 3))).square() for step in STEPS], dim=1)
    distances = F.avg_pool2d(squares, WINDOW, 1, WINDOW // 2)
    return (-distances / (distances.mean(dim=1, keepdim=True) + FLAT)).exp()
