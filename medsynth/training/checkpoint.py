"""Checkpoints of a run, saved so that it can be killed at any time and resumed."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from medsynth import distributed
from medsynth.errors import MedsynthError
from medsynth.storage import load_plain, save_plain
from medsynth.training import random_state
from medsynth.training.signals import StopRequests

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)
_FORMAT = 1


class Checkpoint:
    """Restores a run when it starts and saves it regularly: a stopped run goes on as if it had not stopped.

    It restores on STARTED and saves on GET_BATCH_STARTED, between two iterations, when the other handlers have finished
    an iteration or an epoch; so the order of the handlers does not matter, as long as the others do nothing on STARTED
    (they begin on their first EPOCH_STARTED). It saves once per epoch, every `minutes`, on Ctrl-C or SIGTERM, and at
    the end. After an error the last file stays as it is: the failed iteration may have changed half of the weights.

    Ctrl-C and SIGTERM fire INTERRUPT after saving, for last pictures.

    Args:
        validator: the evaluator whose best metric is saved.
        minutes: longest time between two saves.
    """

    def __init__(self, run: Run, validator: Engine | None = None, minutes: float = 10.0) -> None:
        self.run = run
        self.validator = validator
        self.minutes = minutes
        self._stop = StopRequests()
        self._saved_time = 0.0

    def attach(self, engine: Engine) -> None:
        """Restore on the engine's start, save between its iterations."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._count)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._between_iterations)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        self.run.begin()
        if self.run.resume and self.run.has_checkpoint():
            self._restore(engine)
        self.run.start_iteration = self.run.saved_iteration = engine.state.iteration
        self._saved_time = time.monotonic()
        self.run.save_config()
        self._stop.__enter__()

    def _count(self, engine: Engine) -> None:
        self.run.images += len(next(iter(engine.state.batch.values()))) * idist.get_world_size()

    def _between_iterations(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        overdue = time.monotonic() - self._saved_time > 60 * self.minutes
        asked = 2 * int(self._stop.received or 0) + int(overdue)  # in one number: all processes save and stop at once
        stop_signal, overdue = divmod(distributed.all_reduce(asked, "MAX"), 2)
        if iteration > self.run.saved_iteration:
            epoch_is_over = iteration % engine.state.epoch_length == 0
            if epoch_is_over or overdue or stop_signal:
                self._save(engine)
        if stop_signal:
            logger.info("Stopped at iteration %d; the same command goes on from there", iteration)
            engine.fire_event(Events.INTERRUPT)
            idist.barrier()  # torchrun kills the others when one has ended
            sys.exit(128 + stop_signal)  # what a shell expects of a process that a signal stopped

    def _complete(self, engine: Engine) -> None:
        if engine.state.iteration > self.run.saved_iteration:
            self._save(engine)
        self._stop.__exit__(None, None, None)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._stop.__exit__(None, None, None)
        raise error

    def _save(self, engine: Engine) -> None:
        self.run.saved_iteration = engine.state.iteration
        self._saved_time = time.monotonic()
        stateful = engine.stateful()
        for name, item in stateful.items():
            if isinstance(item, nn.Module):
                distributed.require_alike(item, name)
        if not self.run.is_main:
            return
        _require_finite(stateful, engine.state.iteration)
        content = {
            "format": _FORMAT,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "stateful": {name: item.state_dict() for name, item in stateful.items()},
            "run": self.run.state_dict(),
            "random_state": random_state.capture(),
        }
        if self.validator is not None:
            content["best_metric_name"] = self.validator.state.key_metric_name
            content["best_metric"] = float(self.validator.state.best_metric)
            content["best_metric_epoch"] = int(self.validator.state.best_metric_epoch)
        save_plain(self.run.checkpoint, content, former=self.run.former_checkpoint)

    def _restore(self, engine: Engine) -> None:
        content = self._read()
        state = engine.state
        if content["epoch_length"] != state.epoch_length:
            raise MedsynthError(
                f"{self.run.folder} was begun with {content['epoch_length']} iterations per epoch, and the settings or "
                f"the data now make {state.epoch_length}: use the earlier ones, or another output_dir"
            )
        self._load(engine.stateful(), content["stateful"])
        state.iteration = content["iteration"]
        state.epoch = state.iteration // state.epoch_length
        self.run.load_state_dict(content["run"])
        if self.validator is not None and "best_metric" in content:
            self._restore_best(content)
        if self.run.is_main:
            random_state.restore(content["random_state"])
        else:  # the file has the states of the first process alone
            torch.manual_seed(self.run.seed + idist.get_rank() + state.iteration)
        idist.barrier()
        if state.epoch >= state.max_epochs:
            logger.info("This run is complete: %d epochs; raise max_epochs to train on", state.epoch)
        else:
            logger.info("Going on from iteration %d (epoch %d)", state.iteration, state.epoch + 1)

    def _restore_best(self, content: dict) -> None:
        state = self.validator.state
        if content.get("best_metric_name") == state.key_metric_name:
            state.best_metric, state.best_metric_epoch = content["best_metric"], content["best_metric_epoch"]
        else:
            logger.info("The best model is chosen anew from here on, by %s", state.key_metric_name)

    def _read(self) -> dict[str, Any]:
        """The newest checkpoint that can be read; a damaged one is set aside, so that it cannot replace a good one."""
        latest, former = self.run.checkpoint, self.run.former_checkpoint
        try:
            return _checked(load_plain(latest))
        except MedsynthError as error:
            if not former.exists():
                raise
            content = _checked(load_plain(former))
            logger.warning("%s; going on from %s, of iteration %d", error, former.name, content["iteration"])
        if self.run.is_main and latest.exists():
            latest.replace(latest.with_name("damaged.pt"))
        return content

    def _load(self, stateful: dict[str, Any], saved: dict[str, Any]) -> None:
        for name, item in stateful.items():
            try:
                item.load_state_dict(saved[name])
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise MedsynthError(
                    f"{self.run.checkpoint} was made with other settings or another architecture ('{name}' does not "
                    f"fit): use the settings in {self.run.folder / 'config.json'}, or another output_dir"
                ) from error


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    if content.get("format") != _FORMAT or "stateful" not in content:
        raise MedsynthError("the file in checkpoints/ is not a checkpoint of this version: give another output_dir")
    return content


def _require_finite(stateful: dict[str, Any], iteration: int) -> None:
    """Refuse to save weights that are not finite."""
    for name, item in stateful.items():
        if isinstance(item, nn.Module) and not all(bool(torch.isfinite(t).all()) for t in item.state_dict().values()):
            raise MedsynthError(
                f"iteration {iteration}: '{name}' holds values that are not finite; the last checkpoint is kept: "
                "lower the learning rate and give the same command again"
            )
