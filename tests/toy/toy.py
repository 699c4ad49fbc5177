"""The smallest trainer that keeps to the engine protocol; every part of its state matters to its losses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from ignite.metrics import Average
from monai.engines import Evaluator, Trainer
from monai.networks.nets import FullyConnectedNet
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS = 16


class ToyNetwork(FullyConnectedNet):
    """A network from outside medsynth and MONAI."""


class ToyLoader:
    """An endless shuffled stream of batches; number i depends on i alone."""

    def __init__(self, batch_size: int = 4, length: int = 7) -> None:
        self.batch_size = batch_size
        self.length = length
        self.iteration = 0
        self.images = torch.rand((length * batch_size, 1, 4, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            i, self.iteration = self.iteration, self.iteration + 1
            order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(i // self.length))
            start = i % self.length * self.batch_size
            yield {"image": self.images[order[start : start + self.batch_size]]}

    def state_dict(self) -> dict[str, int]:
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.iteration = state["iteration"]


class ToyTrainer(Trainer):
    """Trains an autoencoder with dropout and noise by Adam, slowly if asked to; its weights turn NaN if asked to."""

    def __init__(
        self,
        network: nn.Module,
        loader: ToyLoader,
        max_epochs: int,
        handlers: Sequence[Any] = (),
        delay: float = 0.0,
        nan_at: int | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(torch.device(device), max_epochs, loader, decollate=False, handlers=handlers)
        self.generator = network
        self.loader = loader
        self.delay = delay
        self.nan_at = nan_at
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)

    def stateful(self) -> dict[str, Any]:
        return {"network": self.generator, "optimizer": self.optimizer, "loader": self.loader}

    def sample(self, count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)  # a careless engine: handlers must not let this reach the training
        with torch.no_grad():
            return self.generator(torch.randn(count, PIXELS)).reshape(count, 1, 4, 4).clamp(-1, 1)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, Any]:
        time.sleep(self.delay)
        image = batch["image"].flatten(1)
        self.generator.train()
        error = F.mse_loss(self.generator(image + 0.1 * torch.randn_like(image)), image)
        if engine.state.iteration == self.nan_at:
            error = error * torch.nan
        self.optimizer.zero_grad()
        error.backward()
        self.optimizer.step()
        return {"losses": {"error": error.detach(), "double": 2 * error.detach()}}


class ToyEvaluator(Evaluator):
    """Mean error on the loader's first batches, lower is better; draws random numbers of its own."""

    def __init__(self, network: nn.Module, loader: ToyLoader, val_handlers: Sequence[Any] = ()) -> None:
        batches = [{"image": images} for images in loader.images.split(loader.batch_size)[:2]]
        super().__init__(
            "cpu",
            batches,
            key_val_metric={"val_error": Average(output_transform=lambda output: output["error"])},
            metric_cmp_fn=lambda now, before: now < before,
            decollate=False,
            val_handlers=val_handlers,
        )
        self.network = network

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, float]:
        image = batch["image"].flatten(1)
        self.network.eval()
        with torch.no_grad():
            return {"error": F.mse_loss(self.network(image + 0.1 * torch.randn_like(image)), image).item()}


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal in the middle of an iteration, once."""
    whole = ToyTrainer._iteration

    def interrupted(self, engine, batch):
        if engine.state.iteration == iteration:
            monkeypatch.setattr(ToyTrainer, "_iteration", whole)
            os.kill(os.getpid(), number)
        return whole(self, engine, batch)

    monkeypatch.setattr(ToyTrainer, "_iteration", interrupted)
