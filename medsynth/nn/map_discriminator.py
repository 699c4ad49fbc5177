"""A discriminator of square maps: scores of the whole map and of local texture."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.nn.blocks import MinibatchDeviation, ResidualDown
from medsynth.nn.conditioning import Conditioning

CONDITION_FEATURES = 32


class MapDiscriminator(nn.Module):
    """Scores how real maps look: one score of the whole map, and a map of scores of local texture.

    Args:
        channels_in: of a map.
        size: pixels per side; it halves with every width but the first.
        widths: features at each scale, the finest first; two or more.
        num_classes, use_position: its conditions, as `Conditioning` takes them.

    Reference: Miyato & Koyama, projection discriminator, arXiv:1802.05637, for class and position.
    """

    def __init__(
        self, channels_in: int, size: int, widths: Sequence[int], num_classes: int, use_position: bool
    ) -> None:
        super().__init__()
        positions = (size >> (len(widths) - 1)) ** 2
        self.condition = Conditioning(num_classes, use_position, CONDITION_FEATURES)
        self.stem = nn.Conv2d(channels_in, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualDown(a, b, normalize=False) for a, b in zip(widths, widths[1:], strict=False))
        self.local = nn.Conv2d(widths[1], 1, 1)
        self.deviation = MinibatchDeviation()
        self.whole = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(positions * widths[-1], 1)
        self.project = nn.Linear(CONDITION_FEATURES, positions * widths[-1], bias=False)

    def features(self, maps: Tensor) -> list[Tensor]:
        """The activations at each scale, finest first."""
        features = [self.stem(maps)]
        for down in self.down:
            features.append(down(features[-1]))
        return features

    def scores(self, features: list[Tensor], label: Tensor | None, position: Tensor | None) -> Tensor:
        """Scores (N,) of maps whose `features` are given; higher looks more real."""
        local = self.local(F.leaky_relu(features[1], 0.2)).mean(dim=(1, 2, 3))
        last = F.leaky_relu(self.whole(self.deviation(F.leaky_relu(features[-1], 0.2))), 0.2).flatten(1)
        matched = (self.project(self.condition(label, position, last)) * last).mean(dim=1)
        return (self.score(last).squeeze(1) + matched + local).float()

    def forward(self, maps: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """(N, channels_in, size, size) -> scores (N,)."""
        return self.scores(self.features(maps), label, position)
