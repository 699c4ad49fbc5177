"""The handlers that all training runs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine

from medsynth.training.best_model import BestModel
from medsynth.training.checkpoint import Checkpoint
from medsynth.training.guards import FiniteLosses, TimeLimit
from medsynth.training.logging.logbook import Logbook
from medsynth.training.logging.progress_page import ProgressPage
from medsynth.training.provenance import Provenance
from medsynth.training.samples import SampleGrid
from medsynth.training.validation import FinalValidation

if TYPE_CHECKING:
    from medsynth.run.run import Run


class RunHandlers:
    """Validates at the end, saves, logs, draws, writes `model.pt`, and stops at bad losses or the time limit.

    Args:
        validator: the evaluator.
        datalist: digest of the datalist.
        checkpoint_minutes: longest time between two checkpoints.
        max_minutes: of training; None for no limit.
        log_iterations: between two rows of `losses.csv`.
        samples: draws the pictures.
        preprocessing, classes, extra, discriminator_id: as `BestModel` takes them.
        schedules: of learning rates, and other handlers.
    """

    def __init__(
        self,
        run: Run,
        validator: Engine,
        datalist: str,
        checkpoint_minutes: float,
        max_minutes: float | None,
        log_iterations: int,
        samples: SampleGrid,
        preprocessing: dict[str, Any],
        extra: dict[str, Any],
        classes: Sequence[str] = (),
        discriminator_id: str | None = None,
        schedules: Sequence[Any] = (),
    ) -> None:
        self.handlers = (
            FinalValidation(run, validator),
            Checkpoint(run, validator, checkpoint_minutes),
            Logbook(run, log_iterations, validator=validator),
            BestModel(run, preprocessing, classes, validator=validator, extra=extra, discriminator_id=discriminator_id),
            samples,
            *schedules,
            ProgressPage(run),
            Provenance(run, datalist),
            FiniteLosses(run),
            TimeLimit(run, max_minutes),
        )

    def attach(self, engine: Engine) -> None:
        """Attach all handlers to the trainer, the page after those whose files it shows."""
        for handler in self.handlers:
            handler.attach(engine)
