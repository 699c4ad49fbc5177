"""Adversarial losses of generators and of discriminators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.errors import MedsynthError


def critic_wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """Score real images above fake ones; minus the estimate of the Wasserstein distance.

    Reference: Arjovsky et al., arXiv:1701.07875, eq. 2.
    """
    return fake.mean() - real.mean()


def generator_wasserstein(fake: Tensor) -> Tensor:
    """Raise the scores of fake images."""
    return -fake.mean()


def discriminator_logistic(real: Tensor, fake: Tensor) -> Tensor:
    """Tell real from fake images by scores that are logits.

    Reference: Goodfellow et al., arXiv:1406.2661, eq. 1.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_logistic(fake: Tensor) -> Tensor:
    """Raise the logits of fake images; non-saturating: the gradient is largest where they are low."""
    return F.softplus(-fake).mean()


ADVERSARIAL_LOSSES = {
    "logistic": (generator_logistic, discriminator_logistic),
    "wasserstein": (generator_wasserstein, critic_wasserstein),
}
"""The losses of generator and discriminator, by name."""


def check_adversarial_loss(key: str, name: str) -> str:
    """Return the name of an adversarial loss; refuse another one with the key of the configuration."""
    if name not in ADVERSARIAL_LOSSES:
        raise MedsynthError(f"{key} is {name!r}: choose one of {', '.join(ADVERSARIAL_LOSSES)}")
    return name


def discriminator_least_squares(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Bring the scores of real images to 1, those of fake ones to 0; one tensor a scale, mean over scales.

    Reference: Mao et al., LSGAN, arXiv:1611.04076, eq. 9 with a = 0, b = c = 1.
    """
    return _mean([((r - 1).square().mean() + f.square().mean()) / 2 for r, f in zip(real, fake, strict=True)])


def generator_least_squares(fake: Sequence[Tensor]) -> Tensor:
    """Bring the scores of fake images to 1."""
    return _mean([(f - 1).square().mean() for f in fake])


def discriminator_hinge(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Push the scores of real images above 1 and of fake ones below -1; one tensor a scale, mean over scales.

    Reference: Lim & Ye, Geometric GAN, arXiv:1705.02894, eq. 11.
    """
    return _mean([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)])


def generator_hinge(fake: Sequence[Tensor]) -> Tensor:
    """Raise the scores of fake images."""
    return -_mean([f.mean() for f in fake])


def _mean(scales: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scales)).mean()
