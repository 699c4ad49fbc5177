"""Watches for a flow that memorizes its training set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)

LOSS = "flow"  # name of the training loss
PARTED = 1.01  # how many times its least value the held-out loss is when it and the training loss have parted
PATIENCE = 0.5  # share of the flow's iterations so far, in which the held-out loss may stay above its least value
LEAST_VALIDATIONS = 8  # in that time


class MemorizationWatch:
    """Says when held-out and training loss part, and ends a run that only memorizes; its best model is kept.

    Args:
        validator: the evaluator, whose key metric is the held-out loss.
    """

    def __init__(self, run: Run, validator: Engine) -> None:
        self.validator = validator
        self._best, self._best_iteration, self._validations, self._said = 1.0, 0, 0, False
        self._sum, self._count, self._mean_at_best = 0.0, 0, 1.0
        run.stateful["memorization"] = self

    def attach(self, engine: Engine) -> None:
        """Watch `engine`'s losses and the validations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        self.validator.add_event_handler(Events.COMPLETED, self._judge, engine)

    def state_dict(self) -> dict[str, Any]:
        best = {"best": self._best, "iteration": self._best_iteration, "mean": self._mean_at_best}
        since = {"validations": self._validations, "said": self._said, "sum": float(self._sum), "count": self._count}
        return best | since

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._best_iteration, self._mean_at_best = state["best"], state["iteration"], state["mean"]
        self._validations, self._said = state["validations"], state["said"]
        self._sum, self._count = state["sum"], state["count"]

    def _add(self, engine: Engine) -> None:
        found = engine.state.output["losses"]
        if LOSS in found:
            self._sum, self._count = self._sum + found[LOSS], self._count + 1  # a tensor: nothing waits for it

    def _judge(self, trainer: Engine) -> None:
        if not self._count:  # the flow has not begun
            return
        state = self.validator.state
        held_out, mean = float(state.metrics[state.key_metric_name]), float(self._sum) / self._count
        self._sum, self._count = 0.0, 0
        iteration, of_flow = trainer.state.iteration, trainer.averaged_iterations
        if held_out < self._best:
            self._best, self._best_iteration, self._mean_at_best, self._validations = held_out, iteration, mean, 0
            return
        if not self._best_iteration:  # it has learned nothing yet
            return
        self._validations += 1
        if not self._said and held_out > PARTED * self._best and mean < self._mean_at_best:
            self._said = True
            logger.warning(
                "the held-out loss is %.4f, after %.4f at iteration %d, and the training loss fell from %.4f to %.4f: "
                "the prior begins to memorize; the model of iteration %d is kept. More patients or dropout help",
                *(held_out, self._best, self._best_iteration, self._mean_at_best, mean, self._best_iteration),
            )
        if self._validations >= LEAST_VALIDATIONS and iteration - self._best_iteration > PATIENCE * of_flow:
            logger.warning("the held-out loss has not fallen since iteration %d: training ends", self._best_iteration)
            trainer.terminate()
