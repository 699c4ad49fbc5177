from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.training.schedule import TwoStages


def schedule(minutes_gone=0.0, **options) -> TwoStages:
    run = SimpleNamespace(start_iteration=0, session_seconds=60 * minutes_gone)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    return TwoStages(run, [optimizer], **{"max_epochs": 10, "warm_up": 0.1} | options)


def engine(iteration: int) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration, max_epochs=10, epoch_length=10))


def rate(schedule: TwoStages, iteration: int) -> float:
    schedule._set(engine(iteration))
    return schedule.optimizers[0].param_groups[0]["lr"]


def test_the_rate_rises_and_falls_as_half_a_cosine():
    whole = schedule()
    assert rate(whole, 1) == pytest.approx(0.02)
    assert rate(whole, 11) == pytest.approx(2 * 0.5 * (1 + 0.951057), rel=1e-4)  # cos(pi / 10)
    assert rate(whole, 51) == pytest.approx(1.0)
    assert rate(whole, 100) < 0.002
    assert not whole.second_stage(engine(100))


def test_minutes_shape_the_rate_where_they_are_further():
    assert rate(schedule(minutes_gone=5, max_minutes=10), 11) == pytest.approx(1.0)
    assert rate(schedule(minutes_gone=1, max_minutes=10), 51) == pytest.approx(1.0)


def test_the_second_stage_starts_again_at_a_lower_rate():
    both = schedule(second_epochs=2, second_rate=0.1)
    assert rate(both, 80) < 0.004
    assert not both.second_stage(engine(80))
    assert both.second_stage(engine(81))
    assert rate(both, 81) == pytest.approx(0.2)
    assert rate(both, 91) == pytest.approx(0.1)


@pytest.mark.parametrize("epochs", [10, -1, 0.5])
def test_a_run_needs_a_first_stage(epochs):
    with pytest.raises(MedsynthError, match="of 10 max_epochs: give 0, or fewer than all"):
        schedule(second_epochs=epochs)
