"""A rectified flow over the continuous embeddings of a VQ-VAE, whose maps are snapped to codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medsynth.models.flow.network import LatentFlow
from medsynth.models.vqvae.priors.base import CodePrior


class CodeFlow(CodePrior):
    """Draws maps of embeddings, as stage one's encoder makes them, and takes the nearest code at each place.

    Args:
        stage_one: arguments of its `SliceVqVae`.
        prior_channels, dropout, num_classes, use_position: as `LatentFlow` takes them.
    """

    def __init__(
        self,
        stage_one: dict[str, Any],
        prior_channels: Sequence[int],
        dropout: float,
        num_classes: int,
        use_position: bool,
    ) -> None:
        super().__init__(stage_one)
        features = self.stage_one.code_features
        self.flow = LatentFlow(features, self.grid, prior_channels, dropout, num_classes, use_position)

    @property
    def conditions(self) -> torch.nn.Module:
        """The classes and positions of the training set."""
        return self.flow.conditions

    def latents(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> embeddings (N, code_features, h, w), not yet codes."""
        return self.stage_one.encode(images)

    def sample_codes(
        self, count: int, seed: int, label: int | None = None, position: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new code maps, see `CodePrior`."""
        latents, labels, positions, _ = self.flow.sample(count, seed, label, position)
        return self.stage_one.index(latents), labels, positions
