"""Learning rates that follow how much of a run is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch.optim import Optimizer

if TYPE_CHECKING:
    from medsynth.bundle.run import Run


class Schedule:
    """Sets learning rates before each iteration, from the share of the run that is over.

    The share follows iterations or the clock, whichever is further; so a run with `max_minutes` ends with the rate that
    it should end with. After such an end, the same command spreads the rest of the schedule over its own time.

    Subclasses say which part of the full rate is left, in `factor`.

    Args:
        optimizers: whose rates are set.
        max_minutes: of this process, as `TimeLimit` has it; None: iterations alone count, and a resumed run has the
            rates of one in a piece.
    """

    def __init__(self, run: Run, optimizers: Sequence[Optimizer], max_minutes: float | None = None) -> None:
        self.run = run
        self.max_minutes = max_minutes
        self.optimizers = optimizers
        self._full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def attach(self, engine: Engine) -> None:
        """Set the rates of `engine`'s optimizers."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def share(self, engine: Engine) -> float:
        """How much of the run is over, from 0 to 1."""
        state = engine.state
        whole = state.max_epochs * state.epoch_length
        by_iterations = (state.iteration - 1) / whole
        if self.max_minutes is None:
            return by_iterations
        before = self.run.start_iteration / whole
        by_clock = before + (1 - before) * self.run.session_seconds / (60 * self.max_minutes)
        return min(1.0, max(by_iterations, idist.all_reduce(by_clock, "MAX")))

    def factor(self, share: float) -> float:
        """Part of the full rate, when `share` of the run is over."""
        raise NotImplementedError

    def _set(self, engine: Engine) -> None:
        factor = self.factor(self.share(engine))
        for optimizer, rates in zip(self.optimizers, self._full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):  # a restored optimizer has new groups
                group["lr"] = rate * factor


class LinearDecay(Schedule):
    """The full rate for the first half of the run, then in a straight line to 0.

    Reference: Zhu et al., CycleGAN, arXiv:1703.10593, section 4.
    """

    def factor(self, share: float) -> float:
        """1 up to a half, 0 at the end."""
        return min(1.0, 2 * (1 - share))
