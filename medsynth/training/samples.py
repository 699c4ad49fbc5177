"""Grids of generated images during training."""

from __future__ import annotations

import io
import logging
import math
from typing import TYPE_CHECKING

from ignite.engine import Engine, Events
from torch import Tensor
from torchvision.utils import make_grid, save_image

from medsynth.storage import write_bytes
from medsynth.training import random_state

if TYPE_CHECKING:
    from medsynth.run.run import Run

log = logging.getLogger(__name__)


class SampleGrid:
    """Draws images of the same latents: `samples/epoch_0000.png` before training, then every few epochs and at the end.

    The first picture is drawn after the engine's `begin`; the log says what the pictures show.

    Args:
        interval_epochs: epochs between two pictures.
        count: images per picture; a square number fills it.

    Attributes:
        shows: what, where it is more than images that the network draws; empty: what the engine's `shows` says.
    """

    shows = ""

    def __init__(self, run: Run, interval_epochs: int = 5, count: int = 81) -> None:
        self.run = run
        self.interval_epochs = interval_epochs
        self.count = count
        self._last_drawn: int | None = None

    def attach(self, engine: Engine) -> None:
        """Draw during `engine`'s run, on the main process alone."""
        if not self.run.is_main:
            return
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval_epochs), self._draw)
        engine.add_event_handler(Events.COMPLETED | Events.INTERRUPT, self._complete)

    def pictures(self, engine: Engine) -> tuple[Tensor, int]:
        """Images (M, C, H, W) in [-1, 1] on the CPU, and the number of images per row."""
        return engine.sample(self.count, self.run.seed), round(self.count**0.5)

    def _begin(self, engine: Engine) -> None:
        if engine.state.iteration == 0:
            self._draw(engine)

    def _complete(self, engine: Engine) -> None:
        if engine.state.iteration not in (self.run.start_iteration, self._last_drawn):
            self._draw(engine)

    def _draw(self, engine: Engine) -> None:
        iteration, shows = engine.state.iteration, self.shows or getattr(engine, "shows", "")
        if shows and self._last_drawn is None:
            log.info("%s shows %s", self.run.folder / "samples", shows)
        self._last_drawn = iteration
        with random_state.untouched():
            images, columns = self.pictures(engine)
        grid = make_grid((images + 1) / 2, nrow=columns).clamp(0, 1)
        epoch = math.ceil(iteration / engine.state.epoch_length)
        picture = io.BytesIO()
        save_image(grid, picture, format="png")
        write_bytes(self.run.folder / "samples" / f"epoch_{epoch:04d}.png", picture.getvalue())
        with self.run.tensorboard(iteration) as writer:
            writer.add_image("samples", grid, iteration)
