from __future__ import annotations

import logging
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from medsynth.models.flow.memorization import LEAST_VALIDATIONS, MemorizationWatch


def watched(
    held_out: Iterable[float],
    training: Iterable[float | None],
    start: int = 0,
    state: dict | None = None,
    first: int = 0,
) -> tuple[int, MemorizationWatch]:
    """Validations until the end of a run with these losses, 10 iterations an epoch; a training loss None: no flow.

    Args:
        start: epochs that the run has had.
        state: of its watch then.
        first: iterations before the flow's.
    """
    held_out, training = list(held_out), list(training)
    run, validator = SimpleNamespace(stateful={}), Engine(lambda *_: None)
    watch = MemorizationWatch(run, validator)
    assert run.stateful == {"memorization": watch}
    if state is not None:
        watch.load_state_dict(state)

    def iterate(engine: Engine, _: int) -> dict[str, dict[str, torch.Tensor]]:
        loss = training[engine.state.epoch - 1]
        engine.averaged_iterations = engine.state.iteration - first
        return {"losses": {"l1": torch.tensor(9.0)} if loss is None else {"flow": torch.tensor(loss)}}

    trainer = Engine(iterate)
    watch.attach(trainer)
    validator.state.key_metric_name = "validation_loss"

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        validator.state.metrics["validation_loss"] = held_out[trainer.state.epoch - 1]
        validator.fire_event(Events.COMPLETED)

    @trainer.on(Events.STARTED)
    def go_on() -> None:
        trainer.state.epoch, trainer.state.iteration = start, 10 * start

    trainer.run(range(10), max_epochs=len(held_out))
    return trainer.state.epoch, watch


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_held_out_loss_that_rises_while_training_loss_falls_is_told_once_and_ends_the_run(caplog):
    held_out = [0.9, 0.8, *(0.8 + 0.01 * step for step in range(1, 40))]
    epochs, _ = watched(held_out, [0.9 - 0.02 * step for step in range(41)])
    told, ended = warnings(caplog)
    assert "the held-out loss is 0.8100, after 0.8000 at iteration 20" in told
    assert "the training loss fell from 0.8800 to 0.8600" in told
    assert "the model of iteration 20 is kept" in told
    assert ended == "the held-out loss has not fallen since iteration 20: training ends"
    assert epochs == 2 + LEAST_VALIDATIONS


def test_a_run_ends_when_the_best_lies_more_than_half_of_the_flow_s_iterations_behind():
    held_out = [1 - 0.01 * step for step in range(20)] + [0.9] * 40
    assert watched(held_out, [0.5] * 60)[0] == 41
    assert watched(held_out, [0.5] * 60, first=100)[0] == 31


def test_a_run_that_only_stands_still_for_a_while_keeps_on(caplog):
    held_out = [0.9] * 5 + [0.8] + [0.81] * 4 + [0.7] + [0.705] * 5
    assert watched(held_out, [0.9 - 0.01 * step for step in range(16)])[0] == 16
    (told,) = warnings(caplog)
    assert told.startswith("the held-out loss is 0.8100, after 0.8000 at iteration 60, and the training loss fell")


def test_losses_that_rise_together_are_not_memorization(caplog):
    watched([0.8, 0.9, 0.9], [0.8, 0.9, 0.9])
    assert not warnings(caplog)


def test_nothing_is_judged_before_the_flow_begins(caplog):
    epochs, watch = watched([1.3] * 30, [None] * 30)
    assert epochs == 30
    assert watch.state_dict()["best"] == 1
    assert not warnings(caplog)


def test_a_flow_that_has_learned_nothing_yet_has_not_memorized(caplog):
    epochs, _ = watched([1.19] * 30, [0.9 - 0.01 * step for step in range(30)])
    assert epochs == 30
    assert not warnings(caplog)


@pytest.mark.parametrize("stopped", [2, 4, 7])
def test_a_resumed_run_says_and_ends_as_one_in_a_piece(stopped, caplog):
    held_out, training = [0.9, 0.8, 0.7] + [0.75] * 20, [0.9 - 0.01 * step for step in range(23)]
    whole, ended = watched(held_out, training)
    said = warnings(caplog)
    caplog.clear()
    _, watch = watched(held_out[:stopped], training)
    assert watched(held_out, training, start=stopped, state=watch.state_dict())[0] == whole == 3 + LEAST_VALIDATIONS
    assert warnings(caplog) == said
    assert watched(held_out, training, start=whole, state=ended.state_dict())[0] == whole + 1  # the same command again


def test_the_training_loss_since_the_last_validation_is_part_of_the_state():
    state = {"best": 0.5, "iteration": 40, "mean": 0.5, "validations": 0, "said": False, "sum": 300.0, "count": 90}
    _, watch = watched([0.5] * 4 + [0.4], [0.5] * 4 + [8.0], start=4, state=state)
    assert watch.state_dict()["mean"] == pytest.approx((300 + 80) / 100)
