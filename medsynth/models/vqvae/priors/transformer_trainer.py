"""Training of the transformer prior over the codes of a VQ-VAE."""

from __future__ import annotations

from functools import cached_property

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.models.vqvae.priors.code_map_sets import CodeMaps
from medsynth.models.vqvae.priors.transformer import CodeTransformer
from medsynth.training.base_trainer import LONGEST_GRADIENT, BaseTrainer, losses
from medsynth.training.schedule import Schedule


class CodeTransformerTrainer(BaseTrainer):
    """Per batch: lower the negative log-likelihood of the codes of training slices.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: transformer and the frozen stage one.
        network_optimizer: of the transformer.
        ema: keeps the moving average of `network`, which validation and users see.
        schedule: of the learning rate.
        flip: learn from mirrored slices as well.
    """

    def __init__(
        self,
        network: CodeTransformer,
        network_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        schedule: Schedule,
        flip: bool,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.network_optimizer, self.ema = network, network_optimizer, ema
        self.flip = flip
        schedule.attach(self)
        self.average(ema)

    @cached_property
    def maps(self) -> CodeMaps:
        """The training slices as code maps, made when they are first needed: by then a resumed run has its weights."""
        return CodeMaps(self.data_loader.dataset, self.network.stage_one, self.flip)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        indices = self.maps.of(batch["index"])
        self.network.train()
        with self.autocast():
            loss = self.network.negative_log_likelihood(indices, batch["label"], batch["position"]).mean()
        self.update(self.network_optimizer, loss, longest=LONGEST_GRADIENT)
        return losses(negative_log_likelihood=loss)

    def begin(self) -> None:
        """Learn the training set's classes and positions."""
        self.network.conditions.fit(*self.maps.conditions())
        self.generator.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.eval().sample(count, seed)[0].cpu()
