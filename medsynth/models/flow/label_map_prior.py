"""A prior over label maps: a small flow that draws new ones."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.flow.label_maps import told
from medsynth.models.flow.learning import FACTS, FITTED_TO, random_grids, training_loss
from medsynth.models.flow.network import LatentFlow

CHANNELS = (32, 96)
DEVIATION = 0.5  # that shares are scaled by: a place then holds about as much variance as one of z


class LabelMapPrior(LatentFlow):
    """A flow over the shares of each class in the four quarters of each place, as `at_latents` gives them.

    Args:
        classes: of the label maps, the background among them.
        image_size: pixels a side.
        factor: pixels a side of a place, an even number.
        dropout: as `LatentFlow` takes it.
        conditions: `num_classes`, `use_position` and `covariates` of `LatentFlow`.

    All classes have one scale, and a small one: what a map shows is redundant, so that it is seen through much noise,
    and the loss would otherwise be about times at which nothing is left to decide.

    Reference: Chen et al., Analog Bits, arXiv:2208.04202 (continuous values for classes); Chen, arXiv:2301.10972,
    section 2.2 (scale of the data against noise).
    """

    def __init__(self, classes: int, image_size: int, factor: int, dropout: float, **conditions) -> None:
        super().__init__(4 * classes, image_size // factor, CHANNELS, dropout, **conditions)
        self.classes, self.factor = classes, factor

    @torch.no_grad()
    def fit(self, maps: Tensor, labels: Tensor, positions: Tensor, covariates: Tensor) -> None:
        """Learn how frequent each class is, and the conditions of the training set.

        Args:
            maps: (M, 1, H, W), indices of the classes, of some or all training images.
            labels, positions, covariates: of all, as `TrainingConditions.fit` takes them.
        """
        share = torch.bincount(maps.long().flatten(), minlength=self.classes) / maps.numel()
        self.mean.copy_(share.repeat_interleave(4).view_as(self.mean))
        self.deviation.fill_(DEVIATION)
        self.conditions.fit(labels, positions, covariates)
        self.is_fitted.fill_(True)

    def loss(self, maps: Tensor, facts: dict[str, Tensor]) -> Tensor:
        """`training_loss` of label maps (N, 1, H, W), indices of the classes, after `random_grids`."""
        with torch.no_grad():
            grid, numbers = random_grids(len(maps), maps.shape[-2:], maps.device)
            latents = told(maps, self.classes, self.factor, grid)[:, :-1]
        return training_loss(self, latents, numbers, facts)

    @torch.no_grad()
    def sample(self, count: int, seed: int, **request) -> tuple[Tensor, ...]:
        """Draw new label maps (count, 1, H, W), uint8, with the conditions that `LatentFlow.sample` returns."""
        parts, *conditions = super().sample(count, seed, **request)
        return largest(parts, self.factor), *conditions


def largest(parts: Tensor, factor: int) -> Tensor:
    """The class of the largest share in each pixel; between the middles of quarters, shares are interpolated.

    Args:
        parts: (N, 4 * classes, h, w), shares as `at_latents` gives them, without the ones.
        factor: pixels a side of a place.

    Returns: (N, 1, factor * h, factor * w), indices of the classes, uint8.
    """
    shares = F.interpolate(F.pixel_shuffle(parts, 2), scale_factor=factor // 2, mode="bilinear", align_corners=False)
    return shares.argmax(dim=1, keepdim=True).to(torch.uint8)


def fit_label_maps(prior: LabelMapPrior, dataset: SliceDataset) -> None:
    """Tell a prior how frequent the classes are in the label maps of a training set, and its images' conditions."""
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), FITTED_TO)).astype(np.int64)
    maps = dataset.stored_slices.read(dataset.views["segmentation"][chosen])
    facts = dataset.facts(np.arange(len(dataset)))
    prior.fit(maps, *(facts[name] for name in FACTS))
