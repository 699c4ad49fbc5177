"""Reasons to stop: losses that are not finite, and the time limit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medsynth.errors import MedsynthError

if TYPE_CHECKING:
    from medsynth.bundle.run import Run

logger = logging.getLogger(__name__)


class FiniteLosses:
    """Stops a run whose losses are no longer finite, and names the iteration and the loss.

    Looks at the losses of several iterations at once, and at an epoch's end, because each look waits for the device. A
    checkpoint in between is safe: `Checkpoint` looks at the weights.

    Args:
        interval: iterations between two looks.
    """

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._seen: list[tuple[int, dict[str, Tensor]]] = []

    def attach(self, engine: Engine) -> None:
        """Watch the losses of `engine`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def _add(self, engine: Engine) -> None:
        state = engine.state
        self._seen.append((state.iteration, state.output["losses"]))
        if len(self._seen) < self.interval and state.iteration % state.epoch_length:
            return
        finite = torch.isfinite(torch.stack([torch.stack(list(losses.values())).sum() for _, losses in self._seen]))
        if not finite.all():
            iteration, losses = self._seen[int(finite.int().argmin())]
            bad = ", ".join(f"{name} is {value.item()}" for name, value in losses.items() if not value.isfinite())
            raise MedsynthError(
                f"iteration {iteration}: {bad or 'the losses overflow'}; the last checkpoint is kept: "
                "lower the learning rate and give the same command again"
            )
        self._seen = []


class TimeLimit:
    """Stops training in good order after `max_minutes` of this process; the same command goes on from there.

    Args:
        max_minutes: counted from the start of the run, data preparation included; None for no limit.
    """

    def __init__(self, run: Run, max_minutes: float | None = None) -> None:
        self.run = run
        self.max_minutes = max_minutes

    def attach(self, engine: Engine) -> None:
        """Watch the clock between `engine`'s iterations, when an epoch's end is done with."""
        if self.max_minutes is not None:
            engine.add_event_handler(Events.GET_BATCH_STARTED, self._check)

    def _check(self, engine: Engine) -> None:
        is_over = self.run.session_seconds > 60 * self.max_minutes
        if idist.all_reduce(int(is_over), "MAX"):  # all processes stop at the same iteration
            logger.info(
                "max_minutes (%g) is over at iteration %d; the same command goes on from there",
                self.max_minutes,
                engine.state.iteration,
            )
            engine.terminate()
