"""Training of the rectified flow over the embeddings of a VQ-VAE."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.distributed import same_everywhere
from medsynth.models.flow.learning import FACTS, augmented_loss, fit
from medsynth.models.vqvae.priors.flow import CodeFlow
from medsynth.training.base_trainer import LONGEST_GRADIENT, BaseTrainer, losses, replayed
from medsynth.training.replay import Named
from medsynth.training.schedule import Schedule


class CodeFlowTrainer(BaseTrainer):
    """Per batch: lower the flow's loss on the embeddings of images, augmented in ways that it is told.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp, cuda_graphs: as `BaseTrainer`.
        network: flow and the frozen stage one.
        network_optimizer: of the flow.
        ema: keeps the moving average of `network`, which validation and users see.
        schedule: of the learning rate.
    """

    def __init__(
        self,
        network: CodeFlow,
        network_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        schedule: Schedule,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.network_optimizer, self.ema = network, network_optimizer, ema
        schedule.attach(self)
        self.average_in_proportion(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        found = self.flow_step(image=batch["image"], facts={name: batch[name] for name in FACTS})
        self.descend(self.network_optimizer, LONGEST_GRADIENT)
        return losses(**found)

    @replayed("network_optimizer")
    def flow_step(self, image: Tensor, facts: Named) -> dict[str, Tensor]:
        """The gradients of the flow; its loss."""
        with self.autocast():
            loss = augmented_loss(self.network.flow, self.network.latents, image, facts)
        loss.backward()
        return {"flow": loss.detach()}

    def begin(self) -> None:
        """Tell the flow how embeddings are distributed."""
        fit(self.network.flow, self.network.latents, self.data_loader.dataset)
        same_everywhere(self.network)
        self.generator.load_state_dict(self.network.state_dict())

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.eval().sample(count, seed)[0].cpu()
