"""What a flow learns from: mixtures of noise and latents, and images augmented in ways that it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.flow.network import AUGMENTATION_NUMBERS, LatentFlow, unknown

FACTS = ("label", "position", "covariates")  # of a batch, that a flow is told
FITTED_TO = 4096  # images, whose latents say how these are scaled
ENCODED_AT_ONCE = 64  # images
DROPPED = 0.1  # share of the images whose conditions are hidden
HIDDEN = 0.2  # share of those whose label maps are hidden, some of them with the conditions
ELASTIC_GRID = 5  # control points a side
AUGMENTED = 0.6  # share of the images
ROTATION, SCALE, SHIFT, ELASTIC = math.radians(8), 0.08, 1 / 16, 0.02  # largest angle; the others, shares of the image


def flow_loss(
    flow: LatentFlow,
    latents: Tensor,
    condition: Tensor,
    augmentation: Tensor | None = None,
    uniform: Tensor | None = None,
    noise: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Mean squared error of what a flow says, of each map (N,); 1 of one that has learned nothing.

    Times are logit-normal; over a batch they are spread evenly.

    Args:
        latents: (N, latent_channels, ...), normalized.
        condition, augmentation, given: as `LatentFlow` takes them.
        uniform: (N,) between 0 and 1, that times are made from; None: random.
        noise: like the latents; None: random.

    Reference: Esser et al., arXiv:2403.03206, section 3.1 (logit-normal times); Kingma et al., arXiv:2107.00630,
    appendix I.1 (evenly spread ones).
    """
    count = len(latents)
    if uniform is None:
        uniform = (torch.rand((), device=latents.device) + torch.arange(count, device=latents.device) / count) % 1
    noise = torch.randn_like(latents) if noise is None else noise
    time = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()
    share = time.view(-1, *(1,) * (latents.ndim - 1))
    root = (share.square() + (1 - share).square()).sqrt()
    target = ((1 - share) * latents - share * noise) / root
    said = flow(share * latents + (1 - share) * noise, time, condition, augmentation, given)
    return (said - target).square().flatten(1).mean(dim=1)


def training_loss(
    flow: LatentFlow,
    latents: Tensor,
    augmentation: Tensor,
    facts: dict[str, Tensor],
    given: Tensor | None = None,
) -> Tensor:
    """Mean `flow_loss` of a training batch, whose conditions and maps are hidden from the flow now and then.

    Of the images without conditions, half have no maps either: so the flow learns each without the other.

    Args:
        latents: not normalized.
        augmentation: from `random_grids`.
        facts: `label` and `position`, (N,) each, and `covariates` (N, K).
        given: label maps as `label_maps.at_latents` makes them; None: the flow knows none.
    """
    chance = torch.rand(len(latents), device=latents.device)
    conditions = unknown(chance < DROPPED, *(facts[name] for name in FACTS))
    given = flow.without_maps(given, has_no_map(chance))
    condition = flow.embed(*conditions, latents)
    return flow_loss(flow, flow.normalize(latents), condition, augmentation, given=given).mean()


def has_no_map(chance: Tensor) -> Tensor:
    """Of images with random numbers (N,) from 0 to 1, below `DROPPED` without conditions: whose maps are hidden."""
    return (chance > DROPPED / 2) & (chance < DROPPED / 2 + HIDDEN)


def augmented_loss(
    flow: LatentFlow,
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    facts: dict[str, Tensor],
    given: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """`training_loss` of images (N, 1, H, W) in [-1, 1], after `random_grids`; the encoder learns nothing.

    Args:
        given: the label maps `segmentation` of `facts`, and a grid that they are sampled at as the images are -> what
            the flow is told; used where there are such.
    """
    with torch.no_grad():
        grid, numbers = random_grids(len(images), images.shape[-2:], images.device)
        latents = encode(moved(images, grid, numbers))
        maps = given(facts["segmentation"], grid) if "segmentation" in facts else None
    return training_loss(flow, latents, numbers, facts, maps)


@torch.no_grad()
def fit(flow: LatentFlow, encode: Callable[[Tensor], Tensor], dataset: SliceDataset) -> None:
    """Tell a flow how the latents of a training set are distributed, and which conditions its images have.

    Args:
        encode: images (N, 1, H, W) in [-1, 1] -> latents.
        dataset: the training slices.
    """
    images = spread_images(dataset, min(len(dataset), FITTED_TO)).to(flow.mean.device)
    latents = torch.cat([encode(part) for part in images.split(ENCODED_AT_ONCE)])
    facts = dataset.facts(np.arange(len(dataset)))
    flow.fit(latents, *(facts[name] for name in FACTS))


def spread_images(dataset: SliceDataset, count: int) -> Tensor:
    """(count, 1, H, W), evenly spread over a set of slices."""
    return dataset.read(np.linspace(0, len(dataset) - 1, count).astype(np.int64))[:, None].float()


def random_grids(count: int, size: Sequence[int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """How to mirror, turn, scale, shift and bend a share of `count` images, each in its own way; see `moved`.

    The flow is told what was done: it learns from more than there is, and what it draws looks like what there is.

    Returns: where to sample images of a size, (count, H, W, 2) from -1 to 1, and six numbers about each, all 0 of one
        that stays as it is.

    Reference: Karras et al., EDM, arXiv:2206.00364, section 5 and appendix F.2.
    """
    chosen = (torch.rand(count, 1, device=device) < AUGMENTED).float()
    numbers = (2 * torch.rand(count, AUGMENTATION_NUMBERS, device=device) - 1) * chosen
    numbers[:, 0] = (numbers[:, 0] > 0).float()
    numbers[:, 5] = numbers[:, 5].abs()
    waves = torch.randn(count, 2, ELASTIC_GRID, ELASTIC_GRID, device=device)
    return grids_of(numbers, waves, size), numbers


def grids_of(numbers: Tensor, waves: Tensor, size: Sequence[int]) -> Tensor:
    """Where to sample images of a size that are augmented so, (N, H, W, 2) from -1 to 1.

    Args:
        numbers: (N, 6): 1 to mirror, turn, scale, shift right and down, from -1 to 1, and how much to bend, from 0.
        waves: (N, 2, ELASTIC_GRID, ELASTIC_GRID), normal noise: how to bend.
    """
    mirror, turn, scale, right, down, bend = numbers.unbind(dim=1)
    angle, factor = ROTATION * turn, 1 + SCALE * scale
    cosine, sine, side = angle.cos() * factor, angle.sin() * factor, 1 - 2 * mirror
    rows = [cosine * side, -sine, 2 * SHIFT * right, sine * side, cosine, 2 * SHIFT * down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), [len(numbers), 1, *size], align_corners=False)
    waves = waves * (2 * ELASTIC * bend)[:, None, None, None]
    bent = F.interpolate(waves, size=tuple(size), mode="bicubic", align_corners=True)
    return grid + bent.permute(0, 2, 3, 1)


def moved(images: Tensor, grid: Tensor, numbers: Tensor) -> Tensor:
    """Sample images (N, C, H, W) in [-1, 1] at the points of `random_grids`; what comes in from outside is air, -1.

    Those whose numbers are all 0 are as they were.
    """
    found = F.grid_sample(images + 1, grid, mode="bicubic", align_corners=False).clamp(0, 2) - 1
    return torch.where(numbers.any(dim=1)[:, None, None, None], found, images)
