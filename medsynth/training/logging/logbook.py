"""The losses of a run: progress bar, log, CSV, curves, TensorBoard."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from monai.utils import is_scalar
from torch import Tensor
from tqdm import tqdm

from medsynth import distributed
from medsynth.storage import write_bytes
from medsynth.training.logging.curves import curves
from medsynth.training.logging.table import Table

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)

TERMINAL_SECONDS, FILE_SECONDS = 0.1, 10.0  # between two updates of the progress bar


def scalar_metrics(validator: Engine) -> dict[str, float]:
    """The metrics of the last validation that are single numbers."""
    return {name: float(value) for name, value in validator.state.metrics.items() if is_scalar(value)}


class Means:
    """Running means by name. Sums stay on their device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one value a name, 0-d tensors."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.float().clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means so far, over all processes, and reset; all processes must call it at once."""
        sums, counts = self.sums, self.counts
        self.sums, self.counts = {}, {}
        if not sums:
            return {}
        totals = distributed.mean_of_all(torch.stack(list(sums.values())))
        return {name: total / counts[name] for name, total in zip(sums, totals.tolist(), strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])


class Logbook:
    """Logs `engine.state.output["losses"]` and the validator's metrics.

    It adds up on ITERATION_COMPLETED and writes a row of `losses.csv` every `interval` iterations and at an epoch's
    end, at the same iterations however often the run is stopped; unfinished sums are in the checkpoint.

    Args:
        interval: iterations between two rows.
        plot_epochs: epochs between two drawings of `losses.png`.
        validator: the evaluator whose metrics go to `metrics.csv`.
    """

    def __init__(self, run: Run, interval: int = 10, plot_epochs: int = 5, validator: Engine | None = None) -> None:
        self.run = run
        self.interval = interval
        self.plot_epochs = plot_epochs
        self.validator = validator
        self.losses = Table(run.folder / "losses.csv")
        self.metrics = Table(run.folder / "metrics.csv")
        self._row, self._epoch = Means(), Means()
        self._bar: tqdm | None = None
        self._epoch_started = 0.0
        run.stateful["logbook"] = self

    def attach(self, engine: Engine) -> None:
        """Follow `engine`; the main process logs the means over all processes."""
        self._device = engine.state.device
        if self.run.is_main:
            engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
            engine.add_event_handler(Events.COMPLETED | Events.INTERRUPT, self._complete)
            if self.validator is not None:
                self.validator.add_event_handler(Events.COMPLETED, self._write_metrics, engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"row": self._row.state_dict(), "epoch": self._epoch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._row.load_state_dict(state["row"], self._device)
        self._epoch.load_state_dict(state["epoch"], self._device)

    def _start_epoch(self, engine: Engine) -> None:
        state = engine.state
        if self._bar is None:
            self.losses.cut(state.iteration)
            self.metrics.cut(state.iteration)
        self._epoch_started = time.monotonic()
        self._bar = tqdm(
            total=state.epoch_length,
            initial=state.iteration % state.epoch_length,
            desc=f"epoch {state.epoch}/{state.max_epochs}",
            leave=False,
            position=0,
            mininterval=TERMINAL_SECONDS if sys.stderr.isatty() else FILE_SECONDS,
        )

    def _add(self, engine: Engine) -> None:
        state = engine.state
        losses = {name: value.detach() for name, value in state.output["losses"].items()}
        self._row.add(losses)
        self._epoch.add(losses)
        epoch_is_over = state.iteration % state.epoch_length == 0
        means = self._row.take() if epoch_is_over or state.iteration % self.interval == 0 else None
        if not self.run.is_main:
            return
        self._bar.update()
        if means is not None:
            self._write_row(engine, means)
        if epoch_is_over:
            self._bar.close()

    def _write_row(self, engine: Engine, means: dict[str, float]) -> None:
        state = engine.state
        progress = {"iteration": state.iteration, "epoch": state.epoch, "seconds": round(self.run.seconds, 1)}
        self.losses.append(progress | {"images": self.run.images} | means)
        self._scalars("train", means, state.iteration)
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)

    def _end_epoch(self, engine: Engine) -> None:
        state, means = engine.state, self._epoch.take()
        if not self.run.is_main:
            return
        seconds = time.monotonic() - self._epoch_started
        text = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        logger.info("Epoch %d/%d  %s  (%.1f s)", state.epoch, state.max_epochs, text, seconds)
        if state.epoch % self.plot_epochs == 0:
            self._draw()

    def _write_metrics(self, trainer: Engine) -> None:
        values = scalar_metrics(self.validator)
        if not values:
            return
        logger.info("Validation  %s", "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
        iteration = trainer.state.iteration
        self.metrics.append({"iteration": iteration, "epoch": trainer.state.epoch} | values)
        self._scalars("validation", values, iteration)

    def _scalars(self, group: str, values: dict[str, float], iteration: int) -> None:
        with self.run.tensorboard(iteration) as writer:
            for name, value in values.items():
                writer.add_scalar(f"{group}/{name}", value, iteration)

    def _complete(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
        if self.losses.path.exists():  # a time limit may be over before the first step
            self._draw()

    def _draw(self) -> None:
        columns = self.losses.read()
        if columns.get("iteration"):
            write_bytes(self.run.folder / "losses.png", curves(columns))
