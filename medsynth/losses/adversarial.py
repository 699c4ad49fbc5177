"""What generator and critic want of each other."""

from __future__ import annotations

from torch import Tensor


def critic_wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """Score real images above fake ones; minus the estimate of the Wasserstein distance.

    Reference: Arjovsky et al., arXiv:1701.07875, eq. 2.
    """
    return fake.mean() - real.mean()


def generator_wasserstein(fake: Tensor) -> Tensor:
    """Raise the scores of fake images."""
    return -fake.mean()
