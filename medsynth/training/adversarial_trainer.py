"""What a training step against an adversary needs: frozen networks, and the state of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medsynth.training.base_trainer import BaseTrainer


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Parameters take no gradients inside: what passes through reaches the inputs alone."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def reconstruction(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False) -> tuple:
    """For MONAI's `prepare_batch`: an image is its own target; class and position go to the network beside it."""
    image, *condition = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label", "position"))
    return image, image, tuple(condition), {}


class AdversarialTrainer(BaseTrainer):
    """A trainer of two networks that play against each other.

    Subclasses set `discriminator` and `discriminator_optimizer` as well.
    """

    def stateful(self) -> dict[str, object]:
        """And the discriminator's."""
        return super().stateful() | {
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
