from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medsynth.models.flow.solver import heun


def growth(points: Tensor, time: float) -> Tensor:
    """Of exp(t)."""
    return points


def test_one_step_by_hand():
    # slope 3 * 2 at the start and 3 * (2 + 0.5 * 6) + 1 at time 0.5: 2 + 0.5 * (6 + 16) / 2
    found = heun(lambda points, time: 3 * points + 2 * time, torch.tensor([2.0]), 0.0, 0.5, 1)
    assert found.item() == pytest.approx(2 + 0.5 * (6 + 16) / 2)


def test_the_error_falls_with_the_square_of_the_number_of_steps():
    start = torch.ones(1, dtype=torch.float64)
    coarse, fine = (abs(heun(growth, start, 0.0, 1.0, steps).item() - math.e) for steps in (20, 40))
    assert fine < 2e-4 * math.e
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_going_back_gives_the_start():
    start = torch.tensor([0.5, -2.0], dtype=torch.float64)
    there = heun(lambda points, time: time * points.cos(), start, 0.2, 1.0, 50)
    back = heun(lambda points, time: time * points.cos(), there, 1.0, 0.2, 50)
    assert (there - start).abs().min() > 0.1
    torch.testing.assert_close(back, start, atol=1e-4, rtol=0)


def test_times_are_those_of_the_ends_of_each_step():
    seen = []
    heun(lambda points, time: seen.append(time) or points, torch.zeros(1), 1.0, 0.0, 2)
    assert seen == [1.0, 0.5, 0.5, 0.0]
