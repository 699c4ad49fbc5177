"""index.html: the progress of a run, to view during training."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from medsynth.evaluation.report import page
from medsynth.evaluation.report.figures import Figure
from medsynth.run.origin import command
from medsynth.storage import write_text
from medsynth.training.logging.curves import curves
from medsynth.training.logging.table import Table

if TYPE_CHECKING:
    from medsynth.run.run import Run

logger = logging.getLogger(__name__)

GRIDS = 8  # pictures of samples in the page: the first, the last, and some between
WIDTH = 640  # pixels of each, at most
VALIDATIONS = 12  # rows, the last ones
RELOAD_SECONDS = 60  # of a page whose run goes on
NOT_MEASURES = ("iteration", "epoch")


class ProgressPage:
    """Writes `index.html`, one self-contained file: losses, validation, grids of samples over time, settings.

    It is written after each epoch, at the end and when a run is stopped. List it after the handlers whose files it
    reads.

    Args:
        seconds: shortest time between two pages: drawing one takes more than a second.
    """

    def __init__(self, run: Run, seconds: float = RELOAD_SECONDS) -> None:
        self.run = run
        self.seconds = seconds
        self._written = -float("inf")

    def attach(self, engine: Engine) -> None:
        """Follow `engine`'s run, on the main process alone."""
        if self.run.is_main:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._refresh)
            engine.add_event_handler(Events.INTERRUPT, self._write, None)
            engine.add_event_handler(Events.COMPLETED, self._complete)

    def _refresh(self, engine: Engine) -> None:
        if time.monotonic() - self._written > self.seconds:
            self._write(engine, RELOAD_SECONDS)
            self._written = time.monotonic()

    def _complete(self, engine: Engine) -> None:
        if engine.state.iteration > self.run.start_iteration:
            self._write(engine, None)
            self._conclude(engine)

    def _conclude(self, engine: Engine) -> None:
        """Log whether the run is finished, what to look at, the next command, and how good the model is."""
        state, run = engine.state, self.run
        finished = state.iteration >= state.max_epochs * state.epoch_length
        logger.info(
            "%s: the best model%s is %s; look at %s and %s",
            "Finished" if finished else "Not finished",
            "" if finished else " so far",
            run.model,
            run.folder / "index.html",
            run.folder / "samples" / f"epoch_{state.epoch:04d}.png",
        )
        if command := next_command(run, hasattr(engine.generator, "sample")):
            logger.info("Next: %s", command)
        if run.verdict:
            logger.info("The model: %s", run.verdict)

    def _write(self, engine: Engine, reload_seconds: int | None) -> None:
        state, folder = engine.state, self.run.folder
        said = f" The model: {self.run.verdict}." if self.run.verdict else ""
        found = page.Page(
            f"Run {folder.name}",
            f"Epoch {state.epoch} of {state.max_epochs}, iteration {state.iteration:,}: {self.run.images:,} images in "
            f"{self.run.seconds / 60:.1f} minutes on {state.device}.{said}",
            sections=[section for section in (_samples(folder), _validation(folder), _losses(folder)) if section],
            facts=_settings(folder / "config.json"),
            reload_seconds=reload_seconds,
        )
        write_text(folder / "index.html", found.html())


def next_command(run: Run, draws: bool) -> str | None:
    """Of inference, where a model draws images by itself, else of its evaluation."""
    model = {"checkpoint": run.model}
    if draws:
        return command("inference", output_dir=run.folder / "images", **model)
    datalist = run.setting("datalist")
    real = {"real": datalist} if datalist else {}
    return command("evaluation", output_dir=run.folder / "evaluation", **model, **real)


def _samples(folder: Path) -> page.Section | None:
    """Grids over time, the newest first."""
    pictures = sorted(folder.glob("samples/epoch_*.png"))
    if not pictures:
        return None
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(GRIDS, len(pictures))).round().astype(int))[::-1]
    figures = []
    for picture in (pictures[index] for index in chosen):
        title = picture.stem.replace("_", " ")
        figures.append(Figure(picture.stem, title.capitalize(), f"Samples, {title}", "", _smaller(picture), WIDTH))
    return page.Section("samples", "Samples", blocks=[page.Gallery(figures)])


def _smaller(picture: Path) -> bytes:
    image = Image.open(picture)
    image.thumbnail((WIDTH, WIDTH))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def _validation(folder: Path) -> page.Section | None:
    """Curves, and the last rows as a table."""
    path = folder / "metrics.csv"
    columns = Table(path).read() if path.exists() else {}
    names = [name for name in columns if name not in NOT_MEASURES]
    if not names:
        return None
    drawn = Figure("validation", "Validation", "Each measure over the iterations", "", curves(columns))
    rows = [
        [page.numeric(int(columns["epoch"][row])), *(page.numeric(columns[name][row]) for name in names)]
        for row in range(len(columns["epoch"]))[-VALIDATIONS:]
    ]
    heads = [page.Column("epoch"), *(page.Column(name) for name in names)]
    table = page.Table("The last validations, on patients that the network does not learn from", heads, rows)
    return page.Section("validation", "Validation", blocks=[page.Gallery([drawn]), table])


def _losses(folder: Path) -> page.Section | None:
    path = folder / "losses.csv"
    columns = Table(path).read() if path.exists() else {}
    if not columns.get("iteration"):
        return None
    drawn = Figure(
        "losses", "Losses", "Each loss over the iterations", "Pale: as it was; strong: running mean.", curves(columns)
    )
    return page.Section("losses", "Losses", blocks=[page.Gallery([drawn])])


def _settings(config: Path) -> dict[str, str]:
    """The plain values at the top of the configuration, without expressions."""
    if not config.exists():
        return {}
    entries = json.loads(config.read_text())
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in entries.items()
        if not isinstance(value, (dict, list)) and not str(value).startswith(("$", "@"))
    }
