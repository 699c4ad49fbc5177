"""What a flow learns from: mixtures of noise and latents, and images augmented in ways that it is told."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.flow.network import AUGMENTATION_NUMBERS, LatentFlow, forget

FACTS = ("label", "position", "covariates")  # of a batch, that a flow is told
FITTED_TO = 4096  # images, whose latents say how these are scaled
ENCODED_AT_ONCE = 64  # images
DROPPED = 0.1  # share of the images whose conditions are hidden
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


def training_loss(flow: LatentFlow, latents: Tensor, augmentation: Tensor, facts: dict[str, Tensor]) -> Tensor:
    """Mean `flow_loss` of a training batch, whose conditions are hidden from the flow now and then.

    Args:
        latents: not normalized.
        augmentation: from `augmented`.
        facts: `label` and `position`, (N,) each, and `covariates` (N, K).
    """
    conditions = forget(DROPPED, facts["label"], facts["position"], facts["covariates"])
    condition = flow.embed(*conditions, latents)
    return flow_loss(flow, flow.normalize(latents), condition, augmentation).mean()


def augmented_loss(
    flow: LatentFlow, encode: Callable[[Tensor], Tensor], images: Tensor, facts: dict[str, Tensor]
) -> Tensor:
    """`training_loss` of images (N, 1, H, W) in [-1, 1], after `augmented`; the encoder learns nothing."""
    with torch.no_grad():
        moved, augmentation = augmented(images)
        latents = encode(moved)
    return training_loss(flow, latents, augmentation, facts)


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


def augmented(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror, turn, scale, shift and bend a share of the images, each in its own way.

    The flow is told what was done: it learns from more than there is, and what it draws looks like what there is.

    Args:
        images: (N, C, H, W) in [-1, 1]; what comes in from outside is air, -1.

    Returns: the images, and six numbers about each, all 0 of one that is as it was.

    Reference: Karras et al., EDM, arXiv:2206.00364, section 5 and appendix F.2.
    """
    count, device = len(images), images.device
    chosen = (torch.rand(count, 1, device=device) < AUGMENTED).float()
    numbers = (2 * torch.rand(count, AUGMENTATION_NUMBERS, device=device) - 1) * chosen
    numbers[:, 0] = (numbers[:, 0] > 0).float()
    numbers[:, 5] = numbers[:, 5].abs()
    mirror, turn, scale, right, down, bend = numbers.unbind(dim=1)
    angle, factor = ROTATION * turn, 1 + SCALE * scale
    cosine, sine, side = angle.cos() * factor, angle.sin() * factor, 1 - 2 * mirror
    rows = [cosine * side, -sine, 2 * SHIFT * right, sine * side, cosine, 2 * SHIFT * down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    waves = torch.randn(count, 2, ELASTIC_GRID, ELASTIC_GRID, device=device) * (2 * ELASTIC * bend)[:, None, None, None]
    bent = F.interpolate(waves, size=images.shape[-2:], mode="bicubic", align_corners=True)
    grid = grid + bent.permute(0, 2, 3, 1)
    moved = F.grid_sample(images + 1, grid, mode="bicubic", align_corners=False).clamp(0, 2) - 1
    return torch.where(chosen[:, :, None, None] > 0, moved, images), numbers
