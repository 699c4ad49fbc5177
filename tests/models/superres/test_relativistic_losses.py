from __future__ import annotations

import math

import pytest
import torch

from medsynth.models.superres.relativistic_losses import relativistic


def test_the_relativistic_average_by_hand():
    raised, lowered = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    cross_entropies = [math.log1p(math.exp(1 - 1)), math.log1p(math.exp(1 - 3))]  # of 1 and 3 above the mean, 1
    cross_entropies += [math.log1p(math.exp(0 - 2)), math.log1p(math.exp(2 - 2))]  # of 0 and 2 below the mean, 2
    expected = sum(cross_entropies) / 4
    assert relativistic([raised, raised], [lowered, lowered]).item() == pytest.approx(expected)


def test_both_sides_of_the_game_pull_the_other_way():
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    relativistic([real], [fake]).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
