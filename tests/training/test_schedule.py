from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from medsynth.errors import MedsynthError
from medsynth.training.schedule import LinearDecay, RootDecay, Schedule, TwoParts


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
        run.session_seconds = run.at_first_iteration
        engine.state.iteration, engine.state.epoch = start, start // length
        optimizer.load_state_dict(optimizer.state_dict())  # as a checkpoint does

    engine.run(range(length), max_epochs=epochs)
    return seen


def clock(seconds: float, start_iteration: int = 0, prepared: float = 0) -> SimpleNamespace:
    """A run whose images are prepared after so many seconds, and in whose iterations it is so late."""
    return SimpleNamespace(session_seconds=prepared, at_first_iteration=seconds, start_iteration=start_iteration)


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


def test_the_clock_starts_when_the_images_are_prepared():
    assert rates(clock(60 * 8, prepared=60 * 8), max_minutes=10) == pytest.approx(rates(clock(0)))
    assert rates(clock(60 * 9.5, prepared=60 * 8), max_minutes=10)[0] == pytest.approx(0.25)
    _, _, seen = follow(run=clock(0, prepared=60 * 8), minutes=10)
    assert seen[0] == (False, 0)
    _, _, seen = follow(run=clock(0, start_iteration=70, prepared=60 * 8), minutes=10, start=70, second_from=40)
    assert seen[0] == (True, pytest.approx(0.5))


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


PARTS = {"schedule": TwoParts, "first_share": 0.4}


def part(done: float) -> float:
    """The rate when so much of a part is over."""
    return 0.5 * min(1, done / 0.02 + 0.01) * min(1, 2 * (1 - done))


def test_each_of_two_parts_warms_up_and_falls_to_0():
    expected = [part(step / 40) for step in range(40)] + [part(step / 60) for step in range(60)]
    assert rates(clock(0), epochs=10, length=10, **PARTS) == pytest.approx(expected, abs=1e-6)
    assert expected[0] == expected[40] == pytest.approx(0.005)


def follow(**settings: object) -> tuple[TwoParts, Engine, list[tuple[bool, float]]]:
    """The schedule of an engine of 100 iterations unless told otherwise, and where it was at each."""
    settings = {"run": clock(0), "epochs": 10, "second_from": None, "start": 0, "minutes": None} | settings
    schedule = TwoParts(settings["run"], [], 0.4, settings["minutes"])
    schedule.load_state_dict({"second_from": -1 if settings["second_from"] is None else settings["second_from"]})
    seen: list[tuple[bool, float]] = []
    engine = Engine(lambda *_: seen.append((schedule.in_second, schedule.done)))
    schedule.attach(engine)

    @engine.on(Events.STARTED)
    def go_on() -> None:
        engine.state.iteration, engine.state.epoch = settings["start"], settings["start"] // 10

    engine.run(range(10), max_epochs=settings["epochs"])
    return schedule, engine, seen


def test_the_second_part_begins_after_its_share_of_the_iterations():
    schedule, _, seen = follow()
    assert [in_second for in_second, _ in seen] == [False] * 40 + [True] * 60
    assert [done for _, done in seen] == pytest.approx([n / 40 for n in range(40)] + [n / 60 for n in range(60)])
    assert schedule.second_from == 40


@pytest.mark.parametrize("start", [20, 40, 70])
def test_a_run_resumed_in_either_part_is_where_one_in_a_piece_is(start):
    _, _, whole = follow()
    schedule, _, seen = follow(start=start, second_from=40 if start > 40 else None, run=clock(0, start))
    assert seen == whole[start:]
    assert schedule.state_dict() == {"second_from": 40}


def test_a_run_that_is_prolonged_in_its_second_part_stays_there_and_one_in_its_first_part_does_not_end_it_early():
    _, _, seen = follow(start=70, second_from=40, epochs=20)
    assert seen[0] == (True, pytest.approx(30 / 160))
    _, _, seen = follow(start=30, epochs=20)
    assert [in_second for in_second, _ in seen] == [False] * 50 + [True] * 120


def test_the_state_of_a_first_part_is_a_number_as_well():
    assert TwoParts(clock(0), [], 0.4).state_dict() == {"second_from": -1}


def test_with_a_time_limit_both_parts_follow_the_clock_where_it_is_further():
    run = clock(0)
    schedule = TwoParts(run, [], 0.4, max_minutes=10)
    engine = Engine(lambda *_: None)
    engine.state.max_epochs, engine.state.epoch_length = 100, 10
    found = []
    for minutes, iteration in ((0, 1), (2, 2), (4, 3), (5.5, 4), (8.5, 5), (10, 6), (12, 7)):
        run.session_seconds, engine.state.iteration = 60 * minutes, iteration
        schedule.rate(engine)
        found.append((schedule.in_second, schedule.done))
    assert [in_second for in_second, _ in found] == [False, False, True, True, True, True, True]
    assert [done for _, done in found] == pytest.approx([0, 0.5, 0, 0.25, 0.75, 1, 1], abs=2e-3)
    assert schedule.second_from == 2


@pytest.mark.parametrize("share", [0, 1, -0.1, "half", True])
def test_a_share_that_leaves_no_part_is_told(share):
    with pytest.raises(MedsynthError, match=f"prior_from is {share!r}: give a share between 0 and 1"):
        TwoParts(clock(0), [], share)
