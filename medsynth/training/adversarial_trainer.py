"""Base of the adversarial trainers: frozen networks, and the discriminator in a run's state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medsynth.training.base_trainer import BaseTrainer

SHIFT = 3  # pixels at most


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Parameters get no gradients inside; the inputs do."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def shifted(*sets: Tensor) -> list[Tensor]:
    """Sets of images (N, C, H, W), all shifted alike; what leaves at one side enters at the opposite one.

    Reference: Zhao et al., differentiable augmentation, arXiv:2006.10738.
    """
    rows, columns = (
        (torch.arange(size, device=sets[0].device) - torch.randint(-SHIFT, SHIFT + 1, (1,), device=sets[0].device))
        % size
        for size in sets[0].shape[-2:]
    )
    return [images.index_select(2, rows).index_select(3, columns) for images in sets]


class AdversarialTrainer(BaseTrainer):
    """A trainer of a generator and a discriminator.

    Subclasses set `discriminator` and `discriminator_optimizer` as well.
    """

    def stateful(self) -> dict[str, object]:
        """All of `BaseTrainer`, and the discriminator's."""
        return super().stateful() | {
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
