from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.training.base_trainer import BaseTrainer, losses, use_bfloat16


@pytest.fixture
def trainer() -> BaseTrainer:
    return BaseTrainer("cpu", 1, [0], amp=False)


class LineTrainer(BaseTrainer):
    """Fits a weight without an adversary; the gradient is the mean of the batch, doubled in every other step."""

    def __init__(self, max_epochs: int = 1) -> None:
        super().__init__("cpu", max_epochs, [torch.full((2,), float(n)) for n in range(8)], amp=False)
        self.network = nn.Linear(1, 1, bias=False)
        self.network_optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.ema = EMAHandler(self.network, momentum=0.5)
        self.average(self.ema)

    def _iteration(self, engine: Engine, batch: Tensor) -> dict[str, dict[str, Tensor]]:
        total = (self.network.weight * batch.mean()).sum() * (2 if engine.state.iteration % 2 == 0 else 1)
        self.update(self.network_optimizer, total)
        return losses(total=total)


@pytest.mark.parametrize(
    ("device", "amp", "tiles", "expected"),
    [
        ("cuda", True, False, True),
        ("cuda", False, False, False),
        ("cpu", True, True, True),
        ("cpu", True, False, False),
        ("cpu", False, True, False),
    ],
)
def test_bfloat16_is_used_where_asked_for_and_faster(monkeypatch, device, amp, tiles, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert use_bfloat16(torch.device(device), amp) == expected


@pytest.mark.parametrize(("bfloat16", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_computes_in_the_precision_chosen(trainer, bfloat16, kind):
    trainer.bfloat16 = bfloat16
    with trainer.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind


@pytest.mark.parametrize(("longest", "moved"), [(None, (-3.0, -4.0)), (10.0, (-3.0, -4.0)), (1.0, (-0.6, -0.8))])
def test_an_update_goes_down_the_gradient_no_farther_than_the_longest(trainer, longest, moved):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.full((2,), 100.0)  # of an earlier loss
    optimizer = torch.optim.SGD([weight], lr=1.0)
    trainer.update(optimizer, (weight * torch.tensor([3.0, 4.0])).sum(), longest)
    assert weight.detach() == pytest.approx(torch.tensor(moved), rel=1e-4)


def test_reported_losses_hold_no_graph():
    weight = torch.ones(1, requires_grad=True)
    (reported,) = losses(twice=2 * weight.sum())["losses"].values()
    assert reported.item() == 2
    assert not reported.requires_grad


@pytest.mark.parametrize(("iteration", "times"), [(0, 1), (3, 0)])
def test_only_a_new_run_begins_even_if_it_was_stopped_in_its_first_epoch(iteration, times):
    begun = []

    class Counting(BaseTrainer):
        def _iteration(self, engine, batch):
            return None

        def begin(self):
            begun.append(True)

        def stateful(self):
            return {}

    trainer = Counting(device="cpu", max_epochs=1, train_data_loader=list(range(10)))
    trainer.state.iteration, trainer.state.epoch = iteration, 0
    trainer.fire_event(Events.EPOCH_STARTED)
    assert len(begun) == times


def test_without_an_adversary_training_goes_on_from_one_network_its_average_and_its_optimizer():
    trainer = LineTrainer()
    assert set(trainer.stateful()) == {"network", "ema", "network_optimizer", "loader"}
    start = trainer.network.weight.item()
    trainer.run()
    steps = [n * (2 if n % 2 else 1) for n in range(8)]
    assert trainer.network.weight.item() == pytest.approx(start - sum(steps))
    assert trainer.generator is trainer.ema.ema_model
    assert trainer.generator.weight.item() > trainer.network.weight.item()  # it lags behind
