"""What a training step against an adversary needs: frozen networks, and the state of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

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
