"""StyleGAN's discriminator.

Reference: Karras et al., PGGAN, arXiv:1710.10196; residual connections: StyleGAN2, arXiv:1912.04958, section 4.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.nn.blocks import MinibatchDeviation
from medsynth.nn.conditioning import Conditioning
from medsynth.nn.equalized import EqualizedConv2d, EqualizedLinear, pixel_norm
from medsynth.nn.progressive import PIXELS, SMALLEST, Growing, widths_up_to


class DiscriminatorBlock(nn.Module):
    """Two convolutions that halve the grid, with an averaging shortcut if `residual`."""

    def __init__(self, channels_in: int, channels_out: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(channels_in, channels_in)
        self.conv2 = EqualizedConv2d(channels_in, channels_out, kernel=4, stride=2)
        self.shortcut = EqualizedConv2d(channels_in, channels_out, kernel=1, gain=1.0) if residual else None

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H / 2, W / 2)."""
        hidden = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(features), 0.2, inplace=True)), 0.2, inplace=True)
        if self.shortcut is None:
            return hidden
        return (hidden + self.shortcut(F.avg_pool2d(features, 2))).mul_(0.5**0.5)


class FromImage(nn.Module):
    """Image -> features on a grid of half as many positions per side."""

    def __init__(self, channels: int, image_channels: int) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(PIXELS * image_channels, channels, kernel=1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, image_channels, H, W) -> (N, channels, H / 2, W / 2)."""
        return F.leaky_relu(self.conv(F.pixel_unshuffle(image, 2)), 0.2, inplace=True)


class StyleGanDiscriminator(Growing):
    """Scores how real images look, given their class and position.

    Args:
        image_size, channels, num_classes, use_position, architecture: as the generator's; with `skip` its blocks are
            residual.
        group: images per group of the minibatch standard deviation.
        image_channels: channels of an image.

    Reference: Miyato & Koyama, projection discriminator, arXiv:1802.05637, for class and position.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        use_position: bool,
        architecture: str,
        group: int,
        image_channels: int = 1,
    ) -> None:
        super().__init__(image_size, architecture)
        widths = widths_up_to(image_size, channels)
        grown = widths if self.is_progressive else widths[-1:]  # the others see whole images alone
        self.from_image = nn.ModuleList(FromImage(width, image_channels) for width in grown)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(b, a, not self.is_progressive) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.deviation = MinibatchDeviation(group)
        self.conv = EqualizedConv2d(widths[0] + 1, widths[0])
        self.linear = EqualizedLinear(widths[0] * (SMALLEST // 2) ** 2, widths[0])
        self.score = EqualizedLinear(widths[0], 1, gain=1.0)
        self.condition = Conditioning(num_classes, use_position, widths[0])
        self.project = EqualizedLinear(widths[0], widths[0], gain=1.0)

    def features(self, image: Tensor) -> list[Tensor]:
        """The activations at each scale of (N, C, resolution, resolution), finest first."""
        level = self.level() if self.is_progressive else len(self.blocks)  # the first waits for a GPU
        features = [self.from_image[level if self.is_progressive else -1](image)]
        for number in range(level, 0, -1):
            down = self.blocks[number - 1](features[-1])
            if number == level and self.is_progressive and self.alpha < 1:
                down = self.from_image[level - 1](F.avg_pool2d(image, 2)).lerp(down, self.alpha.to(down))
            features.append(down)
        return features

    def scores(self, features: list[Tensor], label: Tensor | None, position: Tensor | None) -> Tensor:
        """Scores (N,) of images whose `features` are given; higher looks more real."""
        hidden = F.leaky_relu(self.conv(self.deviation(features[-1])), 0.2)
        hidden = F.leaky_relu(self.linear(hidden.flatten(1)), 0.2)
        projected = pixel_norm(self.project(self.condition(label, position, hidden)))
        return (self.score(hidden).squeeze(1) + (projected * hidden).sum(dim=1) / hidden.shape[1] ** 0.5).float()

    def forward(self, image: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """(N, C, resolution, resolution) -> scores (N,)."""
        return self.scores(self.features(image), label, position)
