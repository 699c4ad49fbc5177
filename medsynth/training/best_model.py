"""model.pt: the result of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

from medsynth.run.recipe import check_recipe, save_model
from medsynth.training.logging.logbook import scalar_metrics
from medsynth.training.verdict import verdict

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)


class BestModel:
    """Writes `engine.generator` with its recipe to model.pt: the best by the validator's key metric, or the last.

    It acts when the validator itself completes, so its position among the handlers does not matter. A run without
    validation gets the last model.

    Args:
        network_id: id of the network's definition in the configuration.
        discriminator_id: of the definition of `engine.discriminator`, to save it too; None: it is not saved.
        preprocessing: how the images were prepared, plain values.
        classes: names of the class indices.
        validator: an evaluator with a key metric.
        extra: what else inference needs to know, plain values.
    """

    def __init__(
        self,
        run: Run,
        preprocessing: dict[str, Any],
        classes: Sequence[str] = (),
        network_id: str = "network_def",
        validator: Engine | None = None,
        extra: dict[str, Any] | None = None,
        discriminator_id: str | None = None,
    ) -> None:
        self.run = run
        self.preprocessing = preprocessing
        self.classes = classes
        self.definition = run.definition(network_id)
        self.discriminator = None if discriminator_id is None else run.definition(discriminator_id)
        self.validator = validator
        self.extra = extra or {}
        self._is_best = False
        check_recipe(self.definition, preprocessing, network_id)
        run.stateful["model"] = self

    def attach(self, engine: Engine) -> None:
        """Follow the validator during `engine`'s run, on the main process alone."""
        if not self.run.is_main:
            return
        engine.add_event_handler(Events.COMPLETED, self._complete)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._save_if_best, engine)

    def state_dict(self) -> dict[str, Any]:
        return {"is_best": self._is_best, "verdict": self.run.verdict or ""}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._is_best, self.run.verdict = state["is_best"], state.get("verdict") or None

    def _save_if_best(self, trainer: Engine) -> None:
        state = self.validator.state
        if state.key_metric_name is not None and state.best_metric_epoch == state.epoch:
            self._save(trainer)
            self._is_best = True
            logger.info("Best so far: %s %.4g", state.key_metric_name, state.best_metric)

    def _complete(self, engine: Engine) -> None:
        is_new = engine.state.iteration > self.run.start_iteration
        if not self.run.model.exists() or (is_new and not self._is_best):
            self._save(engine)

    def _save(self, engine: Engine) -> None:
        metrics = {} if self.validator is None else scalar_metrics(self.validator)
        progress = {"iteration": engine.state.iteration, "epoch": engine.state.epoch, "metrics": metrics}
        self.run.verdict = verdict(metrics)
        if self.run.verdict and self.validator is not None and _subjects(engine) & _subjects(self.validator):
            self.run.verdict += ", on slices that it has learned from"
        extra = self.extra | progress | ({"verdict": self.run.verdict} if self.run.verdict else {})
        saved = None if self.discriminator is None else (self.discriminator, engine.discriminator)
        if saved is not None:  # with some weights of the loss it is never updated
            extra["discriminator_learned"] = bool(engine.discriminator_optimizer.state)
        save_model(self.run.model, engine.generator, self.definition, self.preprocessing, self.classes, extra, saved)


def _subjects(engine: Engine) -> set[str]:
    return set(getattr(getattr(engine.data_loader, "dataset", None), "subjects", ()))
