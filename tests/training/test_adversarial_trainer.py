from __future__ import annotations

import pytest
import torch
from ignite.handlers import EMAHandler
from torch import nn

from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen


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


def test_the_state_to_go_on_from_is_that_of_both_networks():
    trainer = AdversarialTrainer("cpu", 1, [0], amp=False)
    for name in ("network", "discriminator"):
        network = nn.Linear(1, 1)
        setattr(trainer, name, network)
        setattr(trainer, f"{name}_optimizer", torch.optim.SGD(network.parameters(), lr=1.0))
    trainer.ema = EMAHandler(trainer.network)
    found = trainer.stateful()
    parts = {"network", "network_optimizer", "discriminator", "discriminator_optimizer"}
    assert found.keys() == parts | {"ema", "loader"}
    assert all(found[name] is getattr(trainer, name) for name in parts)
