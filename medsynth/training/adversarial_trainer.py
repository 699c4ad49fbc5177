"""Base of the adversarial trainers: frozen networks, and the discriminator in a run's state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from medsynth.training.base_trainer import BaseTrainer


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
