"""Reasons to stop: losses that are not finite, and the time limit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medsynth import distributed
from medsynth.errors import MedsynthError, is_number

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)


class FiniteLosses:
    """Stops a run whose losses are no longer finite or have exploded: names the iteration, the loss and the patients.

    Checks the losses of several iterations at once, and at an epoch's end, because each check waits for the device. A
    checkpoint in between is safe: `Checkpoint` checks the weights.

    Args:
        interval: iterations between two checks.
        largest: magnitude of any loss; images are in [-1, 1], and their losses stay far below it.
    """

    def __init__(self, run: Run, interval: int = 10, largest: float = 1e6) -> None:
        self.run = run
        self.interval = interval
        self.largest = largest
        self._seen: list[tuple[int, dict[str, Tensor], list[Tensor]]] = []

    def attach(self, engine: Engine) -> None:
        """Watch the losses of `engine`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def _add(self, engine: Engine) -> None:
        state = engine.state
        indices = [values for name, values in state.batch.items() if name.endswith("index")]
        self._seen.append((state.iteration, state.output["losses"], indices))
        if len(self._seen) < self.interval and state.iteration % state.epoch_length:
            return
        magnitudes = torch.stack([torch.stack(list(losses.values())).abs().max() for _, losses, _ in self._seen])
        good = magnitudes < self.largest  # false for NaN too
        if not good.all():
            raise MedsynthError(self._line(engine, *self._seen[int(good.int().argmin())]))
        self._seen = []

    def _line(self, engine: Engine, iteration: int, losses: dict[str, Tensor], indices: list[Tensor]) -> str:
        bad = ", ".join(f"{name} is {value:.3g}" for name, value in losses.items() if not abs(value) < self.largest)
        dataset = getattr(engine.data_loader, "dataset", None)
        subjects = sorted({dataset.subjects[i] for chosen in indices for i in chosen.tolist()}) if indices else []
        of_whom = f" on a batch of {', '.join(subjects)}" if subjects else ""
        last = (
            f"{self.run.checkpoint}, of iteration {self.run.saved_iteration}, is the last good checkpoint"
            if self.run.has_checkpoint()
            else "there is no checkpoint yet"
        )
        return f"iteration {iteration}: {bad}{of_whom}; {last}: lower the learning rate and give the same command again"


class TimeLimit:
    """Stops training after `max_minutes` of this process, with everything saved; the same command resumes it.

    Args:
        max_minutes: counted from the start of the run, data preparation included; None for no limit.

    Raises:
        MedsynthError: `max_minutes` is not a number from 0.
    """

    def __init__(self, run: Run, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not (is_number(max_minutes) and max_minutes >= 0):
            raise MedsynthError(f"max_minutes is {max_minutes!r}: give a number from 0, such as 60, or null")
        self.run = run
        self.max_minutes = max_minutes

    def attach(self, engine: Engine) -> None:
        """Check the time between `engine`'s iterations, after the handlers of an epoch's end."""
        if self.max_minutes is not None:
            engine.add_event_handler(Events.GET_BATCH_STARTED, self._check)

    def _check(self, engine: Engine) -> None:
        is_over = self.run.session_seconds > 60 * self.max_minutes
        if distributed.all_reduce(int(is_over), "MAX"):  # all processes stop at the same iteration
            logger.info(
                "max_minutes (%g) is over at iteration %d of %d; the same command goes on from there",
                self.max_minutes,
                engine.state.iteration,
                engine.state.max_epochs * engine.state.epoch_length,
            )
            engine.terminate()
