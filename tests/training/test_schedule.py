from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from medsynth.errors import MedsynthError
from medsynth.training.schedule import LinearDecay, RootDecay, Schedule


def rates(
    run: SimpleNamespace,
    epochs: int = 4,
    length: int = 2,
    start: int = 0,
    schedule: type[Schedule] = LinearDecay,
    **arguments,
) -> list[float]:
    """The rate of each iteration of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    engine, seen = Engine(lambda engine, batch: seen.append(optimizer.param_groups[0]["lr"])), []
    schedule(run, [optimizer], **arguments).attach(engine)

    @engine.on(Events.STARTED)
    def go_on() -> None:
        engine.state.iteration, engine.state.epoch = start, start // length
        optimizer.load_state_dict(optimizer.state_dict())  # as a checkpoint does

    engine.run(range(length), max_epochs=epochs)
    return seen


def clock(seconds: float, start_iteration: int = 0) -> SimpleNamespace:
    return SimpleNamespace(session_seconds=seconds, start_iteration=start_iteration)


def test_the_rate_is_full_for_half_of_the_run_and_falls_in_a_straight_line():
    assert rates(clock(0)) == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125])


def test_a_resumed_run_has_the_rates_of_one_in_a_piece():
    assert rates(clock(0, 4), start=4) == pytest.approx(rates(clock(0))[4:])


def test_a_run_with_a_time_limit_follows_the_clock_where_it_is_further():
    assert rates(clock(60 * 7.5), max_minutes=10)[0] == pytest.approx(0.25)
    assert rates(clock(0), max_minutes=10) == pytest.approx(rates(clock(0)))


def test_after_a_time_limit_the_same_command_spreads_the_rest_over_its_time():
    assert rates(clock(0, 6), start=6, max_minutes=10)[0] == pytest.approx(0.25)
    assert rates(clock(60 * 5, 6), start=6, max_minutes=10)[0] == pytest.approx(0.125)


def test_the_rate_never_falls_below_0():
    assert rates(clock(60 * 20), max_minutes=10) == [0.0] * 8


def test_the_root_decay_by_hand_is_the_same_however_long_the_run():
    long = rates(clock(0), schedule=RootDecay, iterations=1)
    assert long == pytest.approx([0.5 / (1 + iteration) ** 0.5 for iteration in range(8)])
    assert rates(clock(0), epochs=2, schedule=RootDecay, iterations=1) == long[:4]
    assert rates(clock(0, 4), start=4, schedule=RootDecay, iterations=1) == long[4:]


def test_the_root_decay_ends_with_a_time_limit():
    by_root = rates(clock(0), schedule=RootDecay, iterations=1)
    at_three_quarters = rates(clock(60 * 7.5), schedule=RootDecay, iterations=1, max_minutes=10)
    assert at_three_quarters == pytest.approx([rate / 2 for rate in by_root])
    assert rates(clock(60 * 10), schedule=RootDecay, iterations=1, max_minutes=10) == [0.0] * 8


@pytest.mark.parametrize("iterations", [0, -5, 2.5])
def test_a_root_decay_without_a_length_is_told(iterations):
    with pytest.raises(MedsynthError, match=f"decay_iterations is {iterations}"):
        rates(clock(0), schedule=RootDecay, iterations=iterations)
