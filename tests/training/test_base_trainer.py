from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.training.base_trainer import BaseTrainer, losses, replayed
from medsynth.training.replay import PLAIN_CALLS, RecordingMemory


@pytest.fixture
def trainer() -> BaseTrainer:
    return BaseTrainer("cpu", 1, [0], amp=False)


class LineTrainer(BaseTrainer):
    """Fits a weight without an adversary; the gradient is the mean of the batch, doubled if asked to."""

    def __init__(self, max_epochs: int = 1) -> None:
        super().__init__("cpu", max_epochs, [torch.full((2,), float(n)) for n in range(8)], amp=False)
        self.network = nn.Linear(1, 1, bias=False)
        self.network_optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.ema = EMAHandler(self.network, momentum=0.5)
        self.average(self.ema)

    def _iteration(self, engine: Engine, batch: Tensor) -> dict[str, dict[str, Tensor]]:
        found = self.step(batch={"image": batch}, doubled=engine.state.iteration % 2 == 0)
        self.descend(self.network_optimizer)
        return losses(**found)

    @replayed("network_optimizer")
    def step(self, batch: dict[str, Tensor], doubled: bool) -> dict[str, Tensor]:
        total = (self.network.weight * batch["image"].mean()).sum() * (2 if doubled else 1)
        total.backward()
        return {"total": total.detach()}


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


def test_a_recorded_step_trains_as_a_plain_one_does_whatever_its_flags(record_on_cpu):
    found = []
    for memory in (None, RecordingMemory()):
        torch.manual_seed(0)
        trainer, log = LineTrainer(max_epochs=3), []
        trainer.recordings = memory
        record_on_cpu(trainer.network.parameters(), log)
        trainer.run()
        found.append(trainer.network.weight.item())
    assert found[0] == found[1]
    assert log.count("recorded") == 2  # with and without the flag
    assert log.count("replayed") == 3 * 8 - 2 * PLAIN_CALLS


def test_a_step_that_may_not_be_recorded_lets_go_of_earlier_gradients():
    trainer = LineTrainer()
    trainer.network.weight.grad = torch.full((1, 1), 100.0)
    trainer.step(batch={"image": torch.ones(2)}, doubled=True)
    assert trainer.network.weight.grad.item() == 2
