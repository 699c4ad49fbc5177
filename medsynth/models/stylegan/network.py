"""StyleGAN: a latent vector becomes a style, and the style controls a synthesis network that grows during training.

Synthesis and discriminator work on grids with four pixels per position (`pixel_shuffle`): a resolution of 64 has
features of 32 x 32, which costs a quarter of full-resolution convolutions.

Reference: Karras et al., StyleGAN, arXiv:1812.04948; growing: PGGAN, arXiv:1710.10196; skip and residual connections
instead of growing: StyleGAN2, arXiv:1912.04958, section 4.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.nn.conditioning import UNKNOWN_CLASS, Conditioning, TrainingConditions
from medsynth.nn.equalized import EqualizedConv2d, EqualizedLinear, pixel_norm
from medsynth.nn.progressive import PIXELS, SMALLEST, Growing, widths_up_to

NOISE = ("random", "fixed", "none")
MAPPING_RATE = 0.01  # learning rate of the mapping network, relative to the others'
STYLE_MEAN_MOMENTUM = 0.005


class Mapping(nn.Module):
    """Latent vector and condition -> style w: pixel normalization, then linear layers with leaky ReLU.

    Reference: arXiv:1812.04948, section 2; the learning rate of its layers is a hundredth of the others' (appendix C).
    """

    def __init__(self, latent_features: int, style_features: int, layers: int, condition: Conditioning) -> None:
        super().__init__()
        self.condition = condition
        widths = [latent_features + condition.features] + [style_features] * layers
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList(EqualizedLinear(a, b, learning_rate=MAPPING_RATE) for a, b in pairs)

    def forward(self, latent: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """(N, latent_features), class indices (N,), positions (N,) -> (N, style_features)."""
        condition = self.condition(label, position, latent)
        features = torch.cat([pixel_norm(latent), pixel_norm(condition)], dim=1)
        for layer in self.layers:
            features = F.leaky_relu(layer(features), 0.2)
        return features


class AdaptiveInstanceNorm(nn.Module):
    """Sets the mean and the standard deviation of each image's feature maps as the style says.

    Reference: Huang & Belongie, arXiv:1703.06868, eq. 8, with a learned affine map of the style (arXiv:1812.04948).
    """

    def __init__(self, channels: int, style_features: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_features, 2 * channels, gain=1.0)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N, channels, H, W), (N, style_features) -> (N, channels, H, W)."""
        scale, shift = self.affine(style).to(features.dtype).chunk(2, dim=1)
        maps = features.reshape(1, -1, *features.shape[2:])  # of all images, so that each has a scale and a shift
        return F.instance_norm(maps, weight=(1 + scale).flatten(), bias=shift.flatten()).view(features.shape)


class StyledLayer(nn.Module):
    """After a convolution: noise by learned strengths, leaky ReLU, adaptive instance normalization."""

    def __init__(self, channels: int, style_features: int, side: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels, PIXELS, 1, 1))
        self.register_buffer("fixed_noise", torch.randn(1, PIXELS, side, side))
        self.norm = AdaptiveInstanceNorm(channels, style_features)

    def forward(self, features: Tensor, style: Tensor, noise: str) -> Tensor:
        """(N, channels, side, side), (N, style_features) -> (N, channels, side, side)."""
        if noise != "none":
            maps = self.fixed_noise
            if noise == "random":
                maps = torch.empty_like(features[:, :PIXELS]).normal_()
            features = features + F.conv2d(maps, self.strength)
        return self.norm(F.leaky_relu(features, 0.2), style)


class SynthesisBlock(nn.Module):
    """Doubles the grid (the first one starts from a learned constant instead), with two styled layers."""

    def __init__(self, channels_in: int, channels_out: int, style_features: int, side: int) -> None:
        super().__init__()
        self.is_first = side == SMALLEST // 2
        self.constant = nn.Parameter(torch.ones(1, channels_out, side, side)) if self.is_first else None
        self.conv1 = None if self.is_first else EqualizedConv2d(channels_in, channels_out)
        self.layer1 = StyledLayer(channels_out, style_features, side)
        self.conv2 = EqualizedConv2d(channels_out, channels_out)
        self.layer2 = StyledLayer(channels_out, style_features, side)

    def forward(self, features: Tensor | None, styles: Tensor, noise: str) -> Tensor:
        """(N, channels_in, H / 2, W / 2), styles (N, 2, style_features) -> (N, channels_out, H, W)."""
        if self.is_first:
            features = self.constant.expand(styles.shape[0], -1, -1, -1)
        else:
            features = F.interpolate(self.conv1(features), scale_factor=2, mode="nearest")
        features = self.layer1(features, styles[:, 0], noise)
        return self.layer2(self.conv2(features), styles[:, 1], noise)


class ToImage(nn.Module):
    """Features -> image of twice as many pixels per side, in about [-1, 1].

    The pixels of one position start equal, so that the first images show no checkerboard.

    Reference: Aitken et al., arXiv:1707.02937.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(channels, PIXELS, gain=1.0)
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[:1].expand(PIXELS, -1, -1, -1))

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 1, 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(features).float(), 2)


class Synthesis(Growing):
    """Styles -> images, coarse to fine.

    `progressive` shows the image of the present resolution, blended with that of the one before as it fades in; `skip`
    adds the images of all resolutions.
    """

    def __init__(self, image_size: int, channels: int, style_features: int, architecture: str) -> None:
        super().__init__(image_size, architecture)
        widths = widths_up_to(image_size, channels)
        self.blocks = nn.ModuleList(
            SynthesisBlock(a, b, style_features, SMALLEST // 2 * 2**level)
            for level, (a, b) in enumerate(zip(widths[:1] + widths, widths, strict=False))
        )
        self.to_image = nn.ModuleList(ToImage(width) for width in widths)

    def forward(self, styles: Tensor, noise: str = "random") -> Tensor:
        """(N, num_layers, style_features) -> (N, 1, image_size, image_size), by nearest neighbours while it grows."""
        return F.interpolate(self.draw(styles, noise), size=self.image_size, mode="nearest")

    def draw(self, styles: Tensor, noise: str = "random") -> Tensor:
        """(N, num_layers, style_features) -> (N, 1, resolution, resolution)."""
        if noise not in NOISE:
            raise ValueError(f"noise is {noise!r}: choose one of {', '.join(NOISE)}")
        level, features, image = self.level(), None, None
        for number, (block, to_image) in enumerate(zip(self.blocks[: level + 1], self.to_image, strict=False)):
            features = block(features, styles[:, 2 * number : 2 * number + 2], noise)
            if self.is_progressive and number < level - 1:
                continue
            coarse, image = image, to_image(features)
            if coarse is not None:
                coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
                image = coarse.lerp(image, self.alpha) if self.is_progressive else coarse + image
        return image


class StyleGan(nn.Module):
    """The generator: mapping and synthesis network, and what it takes to draw images like the training set's.

    Args:
        image_size: 16 or more, a power of two.
        channels: features at the finest resolution; they double as the grid halves, at most to 4 times as many.
        latent_features: length of the latent vector z.
        style_features: length of the style w.
        mapping_layers: between the two.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is an input.
        architecture: `progressive` grows, with fade-in; `skip` has all resolutions from the start.

    Attributes:
        num_layers: styled layers, each of which takes a style.

    Raises:
        MedsynthError: for an image size that is no power of two times 4, or an unknown architecture.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_features: int,
        style_features: int,
        mapping_layers: int,
        num_classes: int,
        use_position: bool,
        architecture: str,
    ) -> None:
        super().__init__()
        self.image_size, self.latent_features = image_size, latent_features
        self.synthesis = Synthesis(image_size, channels, style_features, architecture)
        self.num_layers = 2 * len(self.synthesis.blocks)
        condition = Conditioning(num_classes, use_position, latent_features)
        self.mapping = Mapping(latent_features, style_features, mapping_layers, condition)
        self.register_buffer("style_means", torch.zeros(num_classes + 1, style_features))
        self.conditions = TrainingConditions(num_classes)

    @property
    def resolution(self) -> Tensor:
        """Pixels a side that the synthesis network works at."""
        return self.synthesis.resolution

    @property
    def alpha(self) -> Tensor:
        """How far that resolution has faded in, from 0 to 1."""
        return self.synthesis.alpha

    def grow_to(self, resolution: int, alpha: float) -> None:
        """Draw images of `resolution` pixels a side, a share `alpha` of them by its own layers."""
        self.synthesis.grow_to(resolution, alpha)

    def spread(self, style: Tensor) -> Tensor:
        """One style (N, style_features) for all layers: (N, num_layers, style_features)."""
        return style[:, None].expand(-1, self.num_layers, -1)

    @torch.no_grad()
    def follow(self, style: Tensor, label: Tensor) -> None:
        """Keep up the moving mean of styles (N, style_features), of each class (N,) and, in the last row, of all."""
        for row in range(len(self.style_means)):
            members = style if row == len(self.style_means) - 1 else style[label == row]
            if len(members):
                self.style_means[row].lerp_(members.float().mean(dim=0), STYLE_MEAN_MOMENTUM)

    def truncate(self, style: Tensor, truncation: float, label: Tensor | None = None) -> Tensor:
        """Move styles (N, style_features) to the mean of their class: 1 leaves them, 0 is the mean.

        Reference: arXiv:1812.04948, appendix B.
        """
        rows = torch.full((style.shape[0],), UNKNOWN_CLASS, device=style.device) if label is None else label
        return self.style_means[rows % len(self.style_means)].lerp(style, truncation)

    def forward(
        self,
        latent: Tensor,
        label: Tensor | None = None,
        position: Tensor | None = None,
        truncation: float = 1.0,
        noise: str = "random",
    ) -> Tensor:
        """(N, latent_features) from a normal distribution -> images (N, 1, image_size, image_size)."""
        style = self.truncate(self.mapping(latent, label, position), truncation, label)
        return self.synthesis(self.spread(style), noise)

    def draw(
        self,
        count: int,
        label: int | None = None,
        position: float | None = None,
        truncation: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw styles (count, style_features) with their labels and positions, which are as `sample` says.

        Args:
            generator: random state on the CPU.
        """
        labels, positions, _ = self.conditions.sample(count, label, position, generator)
        latents = torch.randn(count, self.latent_features, generator=generator).to(labels.device)
        return self.truncate(self.mapping(latents, labels, positions), truncation, labels), labels, positions

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int,
        label: int | None = None,
        position: float | None = None,
        truncation: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new images.

        Args:
            count: how many.
            seed: the same one gives the same images on the same kind of device.
            label: class index; None: classes as frequent as in the training set.
            position: slice position in [0, 1]; None: positions as in the training set.
            truncation: 1 for the full variety, 0 for the mean.

        Returns: images (count, 1, image_size, image_size) in [-1, 1], labels (count,), -1 if unknown, positions
            (count,), or NaN.
        """
        device = self.style_means.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            styles, labels, positions = self.draw(count, label, position, truncation)
            images = torch.cat([self.synthesis(self.spread(part)) for part in styles.split(64)])
        return images.clamp(-1, 1), labels, positions
