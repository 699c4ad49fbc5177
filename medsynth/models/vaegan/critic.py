"""The critic of the attention VAE-GAN, which tells images from reconstructions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 128)


class VaeGanCritic(nn.Module):
    """(N, 1, H, W) -> scores (N,), the mean over patches; higher looks more real.

    It has no normalization: the gradient penalty constrains each image's slope on its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, WIDTHS[0], 3, padding=1))])
        for a, b in zip(WIDTHS, WIDTHS[1:], strict=False):
            self.layers.append(nn.Conv2d(a, b, 4, stride=2, padding=1))
        self.layers.append(nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1))
        self.score = nn.Conv2d(WIDTHS[-1], 1, 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """The activations of each layer, finest first."""
        found = []
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
            found.append(images)
        return found

    def scores(self, features: list[Tensor]) -> Tensor:
        """Scores (N,), float32, of images whose `features` are given."""
        return self.score(features[-1]).float().mean(dim=(1, 2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N,), float32."""
        return self.scores(self.features(images))
