"""Pictures of a VQ-VAE during training: image, code map, reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from ignite.engine import Engine
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.inference.image_folder import in_rows, spread
from medsynth.models.vqvae.codebook import code_colours
from medsynth.nn.resampling import repeat
from medsynth.training.samples import SampleGrid

if TYPE_CHECKING:
    from medsynth.run.run import Run

COLUMNS = 9


class CodeGrid(SampleGrid):
    """Draws the same held-out slices every time, as `SampleGrid` does.

    A row of slices, below it their code maps, below these the reconstructions; similar codes have similar colours.

    Args:
        dataset: slices, of which some are shown, evenly spread.
        interval_epochs: epochs between two pictures.
        count: slices per picture.
    """

    shows = "held-out slices, below them their code maps (similar codes in similar colours), then their reconstructions"

    def __init__(self, run: Run, dataset: SliceDataset, interval_epochs: int = 5, count: int = 27) -> None:
        super().__init__(run, interval_epochs, count)
        self.dataset = dataset

    @torch.no_grad()
    def pictures(self, engine: Engine) -> tuple[Tensor, int]:
        """(3 * count, 3, H, W) in [-1, 1] on the CPU, and the number of images per row."""
        images = torch.stack([self.dataset[i]["image"] for i in spread(len(self.dataset), self.count)])
        columns = min(COLUMNS, len(images))
        images = images[: len(images) // columns * columns]
        network = engine.generator.eval()
        indices = network.encode_indices(images.to(engine.state.device))
        maps = repeat(code_colours(network.codebook)[indices].movedim(-1, 1), network.stride)
        images, fakes = (part.expand(-1, 3, -1, -1).cpu() for part in (images, network.decode_indices(indices)))
        return torch.stack(in_rows(columns, images, maps.cpu(), fakes)), columns
