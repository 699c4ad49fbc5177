"""Pictures of a translation during training: image, translation, truth, and translation back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor

from medsynth.data.datalist.datalist import PAIR
from medsynth.models.translation.network import UNetVae
from medsynth.models.translation.pair_slices import PairDataset
from medsynth.training.samples import SampleGrid

if TYPE_CHECKING:
    from medsynth.run.run import Run

SHOWN = (
    "in a row, a held-out source, its translation, the true target if there is one, and the translation back; then the "
    "same from the target"
)
SHOWN_OF_CONTRASTS = "in a row, the contrasts of a held-out slice, their translation, and the true target"


class TranslationGrid(SampleGrid):
    """Draws the same slices every time, as `SampleGrid` does.

    A row shows a source, its translation, the true target if there is one, and the translation back; then the same for
    a target, if possible of the same slice. Several contrasts are shown beside one another, then their translation and
    the target.

    Args:
        dataset: held-out slices, which the rows are spread over.
        interval_epochs: between two pictures.
        rows: of a picture.
    """

    def __init__(self, run: Run, dataset: PairDataset, interval_epochs: int = 5, rows: int = 6) -> None:
        super().__init__(run, interval_epochs, count=8 * rows)
        self.dataset, self.rows = dataset, rows
        self.shows = SHOWN_OF_CONTRASTS if dataset.contrasts else SHOWN

    @torch.no_grad()
    def pictures(self, engine: Engine) -> tuple[Tensor, int]:
        """(8 * rows, 1, H, W) in [-1, 1]; eight in a row, or of several contrasts, two more than these."""
        network = engine.generator
        if network.contrasts:
            with engine.autocast():
                rows = self._contrasts(network.source_to_target)
            return rows.flatten(0, 1).float().cpu(), rows.shape[1]
        generators = {"source": network.source_to_target, "target": network.target_to_source}
        with engine.autocast():
            halves = [self._direction(here, there, generators) for here, there in (PAIR, PAIR[::-1])]
        return torch.cat(halves, dim=1).flatten(0, 1).float().cpu(), 8

    def _contrasts(self, generator: UNetVae) -> Tensor:
        """(rows, contrasts + 2, 1, H, W): the contrasts, the translation, the truth."""
        device, indices = next(generator.parameters()).device, self._indices("source")
        image, truth = (
            torch.cat([self.dataset[int(index)][name][None] for index in indices]).to(device) for name in PAIR
        )
        fake = generator(image, self.dataset.facts(indices)["position"].to(device))
        channels = truth.shape[1]
        shown = [image[:, channels // 2 :: channels], fake, truth[:, channels // 2, None]]
        return torch.cat(shown, dim=1)[:, :, None]

    def _direction(self, here: str, there: str, generators: dict[str, UNetVae]) -> Tensor:
        """(rows, 4, 1, H, W): image, translation, truth, and translation back."""
        device = next(generators[here].parameters()).device
        indices = self._indices(here)
        image, truth = (
            torch.cat([self.dataset[int(index)][name][None] for index in indices]).to(device) for name in (here, there)
        )
        position = self.dataset.facts(indices)["position"].to(device)
        fake = generators[here](image, position)
        back = generators[there](fake.expand_as(image), position)
        middle = image.shape[1] // 2
        return torch.stack([image[:, middle, None], fake, truth[:, middle, None], back], dim=1)

    def _indices(self, name: str) -> np.ndarray:
        """Evenly spread slices with an image of a domain and, if there are any, with one of the other."""
        mask = self.dataset.mask
        both, one = mask.all(axis=1), mask[:, PAIR.index(name)]
        slices = np.flatnonzero(both if both.any() else one)
        return slices[np.linspace(0, len(slices) - 1, self.rows + 2)[1:-1].astype(int)]
