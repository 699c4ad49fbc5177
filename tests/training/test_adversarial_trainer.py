from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen, losses, use_bfloat16


@pytest.fixture
def trainer() -> AdversarialTrainer:
    return AdversarialTrainer("cpu", 1, [0], amp=False)


def test_frozen_parameters_take_no_gradient_and_what_passes_through_does():
    network, inputs = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(network):
        network(inputs).sum().backward()
    assert network.weight.grad is None
    assert torch.equal(inputs.grad, network.weight)


def test_frozen_restores_only_what_was_trainable_whatever_happens_inside():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(RuntimeError, match="does not require grad"), frozen(network):
        network(torch.ones(1, 2)).sum().backward()
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, True, False, False]


def test_frozen_within_frozen_stays_frozen():
    network = nn.Linear(2, 2)
    with frozen(network):
        with frozen(network):
            pass
        assert not network.weight.requires_grad
    assert network.weight.requires_grad


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
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": tiles}, raising=False)
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

    class Counting(AdversarialTrainer):
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
