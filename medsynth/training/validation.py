"""Validation at the end of a run and between two stages."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import Tensor

from medsynth.storage import disk_errors

if TYPE_CHECKING:
    from medsynth.run.run import Run
    from medsynth.training.schedule import TwoStages

logger = logging.getLogger(__name__)


def reconstruction(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False) -> tuple:
    """For MONAI's `prepare_batch`: an image is its own target; class and position go to the network beside it."""
    image, *condition = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label", "position"))
    return image, image, tuple(condition), {}


class FinalValidation:
    """Validates when a run ends, unless that was just done, so that the last steps count too.

    List it before the handlers that save.

    Args:
        validator: the evaluator.
    """

    def __init__(self, run: Run, validator: Evaluator) -> None:
        self.run, self.validator = run, validator
        self._validated = -1

    def attach(self, engine: Engine) -> None:
        """Validate at the end of `engine`'s run."""
        self.validator.add_event_handler(Events.COMPLETED, self._remember, engine)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _remember(self, trainer: Engine) -> None:
        self._validated = trainer.state.iteration

    def _complete(self, engine: Engine) -> None:
        if engine.state.iteration not in (self.run.start_iteration, self._validated):
            self.validator.run(engine.state.epoch)


class SecondStage:
    """Saves the model of the first stage, and logs what the second costs by the measure of the first.

    The first stage's best model is saved as `model_first_stage.pt`. From then on the latest model counts as the best
    one, since the second stage does not improve the measure that chooses models.

    Args:
        validator: the evaluator, whose key metric is in dB.
        schedule: decides when the second stage begins.
    """

    def __init__(self, run: Run, validator: Evaluator, schedule: TwoStages) -> None:
        self.run, self.validator, self.schedule = run, validator, schedule
        self._first_best: float | None = None
        run.stateful["second_stage"] = self

    def attach(self, engine: Engine) -> None:
        """Watch for the second stage of `engine`'s run."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        self.validator.add_event_handler(Events.STARTED, self._forget_best)

    def state_dict(self) -> dict[str, Any]:
        return {"first_best": self._first_best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first_best = state["first_best"]

    def _begin(self, engine: Engine) -> None:
        if self._first_best is not None or not self.schedule.second_stage(engine):
            return
        self.validator.run(engine.state.epoch)
        self._first_best = float(self.validator.state.best_metric)
        if self.run.is_main:
            path = self.run.folder / "model_first_stage.pt"
            with disk_errors(path):
                shutil.copyfile(self.run.model, path)
            logger.info("Second stage; the model of the first (%.2f dB) is saved as %s", self._first_best, path.name)

    def _forget_best(self) -> None:
        if self._first_best is not None:
            self.validator.state.best_metric_epoch = -1

    def _complete(self, engine: Engine) -> None:
        if self._first_best is not None and self.validator.state.metrics:
            now = float(self.validator.state.best_metric)
            logger.info(
                "The second stage cost %.2f dB: %.2f after the first, %.2f now",
                self._first_best - now,
                self._first_best,
                now,
            )
