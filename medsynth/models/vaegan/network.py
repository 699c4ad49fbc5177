"""The attention VAE-GAN: encoder, latent vector, decoder that is the GAN's generator, and a separate critic.

All of them work on half-resolution grids with four values a place (`pixel_unshuffle`), which costs a quarter of
full-resolution convolutions and loses nothing.

Reference: Larsen et al., VAE-GAN, arXiv:1512.09300; the attention is CBAM's and SAGAN's (`attention.py`).
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from monai.networks.blocks import SpatialAttentionBlock
from torch import Tensor, nn

from medsynth.errors import MedsynthError, check_whole, is_number
from medsynth.models.vaegan.attention import ChannelSpatialAttention
from medsynth.nn.blocks import ResidualDown, StyledNorm, binomial_blur, image_levels
from medsynth.nn.components import principal_components
from medsynth.nn.conditioning import Conditioning
from medsynth.nn.density import GaussianMixtureDensity
from medsynth.nn.map_discriminator import CONDITION_FEATURES
from medsynth.nn.stylegan_discriminator import StyleGanDiscriminator


def channels_per_level(image_size: int, channels: int) -> list[int]:
    """Features at half resolution, at a quarter ... down to 4 x 4: doubling, at most four times `channels`.

    Raises:
        MedsynthError: for channels that the groups of the normalization don't divide.
    """
    if channels < 8 or channels % 8:
        raise MedsynthError(f"channels is {channels}: give a multiple of 8, such as {max(8, round(channels / 8) * 8)}")
    return [min(channels * 2**level, 4 * channels) for level in range(image_levels(image_size))]


def linear_size(image_size: int) -> int:
    """Side of the grid that the linear maps work on: the image's own, at most 64."""
    return min(int(image_size), 64)  # a tensor while it is traced


def self_attention(channels: int) -> SpatialAttentionBlock:
    """Every place of (N, channels, H, W) attends to every other; for low resolutions."""
    return SpatialAttentionBlock(2, channels, norm_num_groups=8, num_head_channels=math.gcd(channels, 32))


class Encoder(nn.Module):
    """(N, C, size, size) -> mean and log-variance of the latent vector, each (N, latent_features).

    A linear map of the image carries the bulk, the convolutions what is not linear; their last layer starts at 0. They
    move each number of the mean by at most `correction`, if that is given.
    """

    def __init__(
        self, image_size: int, image_channels: int, channels: int, latent_features: int, correction: float | None
    ) -> None:
        super().__init__()
        self.correction = correction
        widths = channels_per_level(image_size, channels)
        self.linear = nn.Linear(image_channels * linear_size(image_size) ** 2, latent_features).requires_grad_(False)
        self.stem = nn.Conv2d(4 * image_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualDown(a, b, normalize=True) for a, b in zip(widths, widths[1:], strict=False))
        self.attention = self_attention(widths[-2])
        self.norm = nn.GroupNorm(8, widths[-1])
        self.condition = nn.Linear(CONDITION_FEATURES, widths[-1])
        self.head = nn.Linear(16 * widths[-1], 2 * latent_features)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias[:latent_features], 0.0)
        nn.init.constant_(self.head.bias[latent_features:], -4.0)

    def forward(self, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(F.pixel_unshuffle(image, 2))
        for down in self.down[:-1]:
            features = down(features)
        features = self.norm(self.down[-1](self.attention(features)))
        features = F.leaky_relu(features + self.condition(condition)[:, :, None, None], 0.2)
        mean, log_variance = self.head(features.flatten(1)).float().chunk(2, dim=1)
        mean = mean if self.correction is None else self.correction * mean.tanh()
        return mean + self.linear_part(image).float(), log_variance.clamp(-10, 4)

    def linear_part(self, image: Tensor) -> Tensor:
        """What the linear map makes of (N, C, size, size): (N, latent_features)."""
        return self.linear(F.adaptive_avg_pool2d(image, linear_size(image.shape[-1])).flatten(1))


class Noise(nn.Module):
    """Adds one map of normal noise, by a strength that each channel learns from 0 on.

    It stands for what the latent vector need not describe: scanner noise, fine texture.

    Reference: Karras et al., StyleGAN, arXiv:1812.04948, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, features: Tensor, which: Tensor) -> Tensor:
        """(N, channels, H, W) and which of them get noise, (N,) of 0 and 1 -> `features`, changed in place."""
        maps = torch.randn_like(features[:, :1]) * which[:, None, None, None].to(features.dtype)
        return features.addcmul_(self.strength.to(features.dtype), maps)


class StyledUp(nn.Module):
    """Doubles the grid: two styled convolutions with noise between them, then channel and spatial attention."""

    def __init__(
        self, channels_in: int, channels_out: int, image_channels: int, style_features: int, antialias: bool
    ) -> None:
        super().__init__()
        # bilinear interpolation is the binomial blur of repeated places, in one operation
        self.enlarge = partial(F.interpolate, scale_factor=2, mode="bilinear" if antialias else "nearest")
        self.norm1 = StyledNorm(channels_in, style_features)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.sketch = nn.Conv2d(4 * image_channels, channels_out, 3, padding=1)
        self.noise = Noise(channels_out)
        self.norm2 = StyledNorm(channels_out, style_features)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.attention = ChannelSpatialAttention(channels_out)

    def forward(self, features: Tensor, sketch: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """(N, channels_in, H, W) and the sketch of the image -> (N, channels_out, 2 H, 2 W)."""
        hidden = self.enlarge(self.conv1(F.leaky_relu(self.norm1(features, style), 0.2, inplace=True)))
        size = 2 * int(hidden.shape[-1])
        hidden.add_(self.sketch(F.pixel_unshuffle(F.adaptive_avg_pool2d(sketch, size), 2)))
        hidden = hidden if noise is None else self.noise(hidden, noise)
        hidden = self.conv2(F.leaky_relu(self.norm2(hidden, style), 0.2, inplace=True))
        return self.attention(hidden).add_(self.enlarge(self.shortcut(features)))


class Decoder(nn.Module):
    """(N, latent_features) -> images (N, C, size, size); the generator of the GAN.

    A linear map sketches the image; the convolutions see the sketch at every scale and add what it lacks. They leave
    its leading `kept_components` alone, if it has any: louder ones would be the cheapest way to look sharp.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channels: int,
        latent_features: int,
        kept_components: int,
        noise_injection: bool,
        antialias: bool,
    ) -> None:
        super().__init__()
        self.image_size, self.image_channels, self.kept_components = image_size, image_channels, kept_components
        self.noise_injection = noise_injection
        widths = channels_per_level(image_size, channels)[::-1]
        self.linear = nn.Linear(latent_features, image_channels * linear_size(image_size) ** 2).requires_grad_(False)
        self.style = nn.Linear(latent_features + CONDITION_FEATURES, 128)
        self.start = nn.Linear(latent_features + CONDITION_FEATURES, 16 * widths[0])
        pairs = zip(widths, widths[1:], strict=False)
        self.up = nn.ModuleList(StyledUp(a, b, image_channels, 128, antialias) for a, b in pairs)
        self.smooth = binomial_blur if antialias else nn.Identity()
        self.attention = self_attention(widths[1])
        self.norm = nn.GroupNorm(8, widths[-1])
        self.mix = nn.Conv2d(widths[-1] // 4 + image_channels, 16, 3, padding=1)
        self.noise = Noise(16)
        self.head = nn.Conv2d(16, image_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, latent: Tensor, condition: Tensor, noise: Tensor | None) -> Tensor:
        """Latent vectors and conditions (N, CONDITION_FEATURES) -> images, not clamped, so that gradients pass.

        `noise` tells which images get some, (N,) of 0 and 1; None: none.
        """
        noise = noise if self.noise_injection else None
        side = linear_size(self.image_size)
        sketch = self.linear(latent).float().unflatten(1, (self.image_channels, side, side))
        sketch = F.interpolate(sketch, size=self.image_size, mode="bilinear") if side < self.image_size else sketch
        latent = torch.cat([latent, condition], dim=1)
        style = F.leaky_relu(self.style(latent), 0.2)
        features = self.attention(self.up[0](self.start(latent).unflatten(1, (-1, 4, 4)), sketch, style, noise))
        for up in self.up[1:]:
            features = up(features, sketch, style, noise)
        fine = self.smooth(F.pixel_shuffle(F.leaky_relu(self.norm(features), 0.2, inplace=True), 2))
        fine = self.mix(torch.cat([fine, sketch.to(fine.dtype)], dim=1))
        fine = fine if noise is None else self.noise(fine, noise)
        return sketch + self.without_kept_components(self.head(F.leaky_relu(fine, 0.2, inplace=True)).float())

    def without_kept_components(self, addition: Tensor) -> Tensor:
        """(N, C, size, size) less what it has of the leading components."""
        kept = self.linear.weight[:, : self.kept_components].T
        if not len(kept):
            return addition
        side = linear_size(self.image_size)
        kept = kept.unflatten(1, (self.image_channels, side, side))
        kept = F.interpolate(kept, size=self.image_size, mode="bilinear") if side < self.image_size else kept
        kept, flat = F.normalize(kept.flatten(1), dim=1), addition.flatten(1)
        with torch.autocast(addition.device.type, enabled=False):
            gram = kept @ kept.T + 1e-6 * torch.eye(len(kept), device=kept.device)  # components without images are 0
            flat = flat - torch.linalg.solve(gram, kept @ flat.T).T @ kept
        return flat.view_as(addition)


class LatentMapping(nn.Module):
    """Moves vectors that were drawn from the density to where the decoder makes realistic images of them.

    A mixture of Gaussians knows means and covariances, no more: its vectors mix features of heads that don't go
    together. It starts as the identity and learns from what samples are judged by.

    Args:
        latent_features: length of a latent vector.
        features: of the hidden layers.
    """

    def __init__(self, latent_features: int, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_features + CONDITION_FEATURES, features)
        self.second = nn.Linear(features, features)
        self.last = nn.Linear(features, latent_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """(N, latent_features), (N, CONDITION_FEATURES) -> (N, latent_features)."""
        hidden = F.leaky_relu(self.first(torch.cat([latent, condition], dim=1)), 0.2)
        hidden = hidden + F.leaky_relu(self.second(hidden), 0.2)
        return latent + self.last(hidden).float()


class VaeGan(nn.Module):
    """Encoder and decoder around a latent vector, and the density that new latent vectors are drawn from.

    Args:
        image_size: 16 or more, a power of two.
        image_channels: channels of an image.
        channels: features at half resolution; they double as the grid halves.
        latent_features: length of the latent vector z.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is an input.
        mixture_components: Gaussians of the density fitted to the aggregate posterior.
        kept_components: leading components of the linear map that the convolutions leave as they are.
        noise_injection: whether samples get random texture that z does not describe.
        mapping_features: width of the network that moves vectors drawn from the density; 0: they stay.
        encoder_correction: how far the encoder's convolutions move each number of z from what the linear map makes of
            the image, at most; the training set's standard deviation is 1. None: as far as they learn to.
        temperature: of samples, unless they are asked for with another: above 0, at most 1.
        antialias: whether what the decoder enlarges is smoothed, so that images show no raster.

    Raises:
        MedsynthError: for an image size that does not halve down to 4, and for what is no number, or no whole one,
            in its range.
    """

    def __init__(
        self,
        image_size: int = 64,
        image_channels: int = 1,
        channels: int = 32,
        latent_features: int = 64,
        num_classes: int = 0,
        use_position: bool = True,
        mixture_components: int = 8,
        kept_components: int = 0,
        noise_injection: bool = True,
        mapping_features: int = 0,
        encoder_correction: float | None = None,
        temperature: float = 1.0,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("latent_features", latent_features, 1),
            ("mixture_components", mixture_components, 1),
            ("kept_components", kept_components, 0),
            ("mapping_features", mapping_features, 0),
        ):
            check_whole(name, value, least)
        self.temperature = check_temperature(temperature)
        self.condition = Conditioning(num_classes, use_position, CONDITION_FEATURES)
        self.encoder = Encoder(
            image_size, image_channels, channels, latent_features, check_correction(encoder_correction)
        )
        self.decoder = Decoder(
            image_size, image_channels, channels, latent_features, kept_components, noise_injection, antialias
        )
        self.latent_features = latent_features
        self.mapping = LatentMapping(latent_features, mapping_features) if mapping_features else None
        self.density = GaussianMixtureDensity(mixture_components, latent_features, num_classes)

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Start the linear maps as the principal components of `images` (M, C, size, size), whitened.

        The rest of the network then learns what principal components cannot say, from the first step on.
        """
        small = F.adaptive_avg_pool2d(images, linear_size(images.shape[-1])).flatten(1).float()
        centre = small.mean(dim=0)
        components, scale = principal_components(small, self.encoder.linear.out_features)
        used = len(scale)
        for linear in (self.encoder.linear, self.decoder.linear):  # what few images cannot say stays 0
            linear.weight.zero_()
            linear.bias.zero_()
        self.encoder.linear.weight[:used] = (components / scale).T
        self.encoder.linear.bias[:used] = -(components / scale).T @ centre
        self.decoder.linear.weight[:, :used] = components * scale
        self.decoder.linear.bias.copy_(centre)

    def fit_density(self, latents: Tensor, labels: Tensor, positions: Tensor, seed: int) -> None:
        """Fit the density to latent vectors (M, latent_features) with their labels and positions (M,)."""
        self.density.fit(latents, labels, positions, self.decoder.linear.weight.norm(dim=0) + 1e-6, seed)

    def encode(
        self, image: Tensor, label: Tensor | None = None, position: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, C, size, size) in [-1, 1] -> mean and log-variance of z, each (N, latent_features)."""
        return self.encoder(image, self.condition(label, position, image.flatten(1)))

    def decode(
        self, latent: Tensor, label: Tensor | None = None, position: Tensor | None = None, noise: bool = False
    ) -> Tensor:
        """(N, latent_features) -> images in [-1, 1]; `noise` adds the texture that z does not describe."""
        which = torch.ones_like(latent[:, 0]) if noise else None
        return self.decoder(latent, self.condition(label, position, latent), which)

    def draw(self, latent: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """Vectors (N, latent_features) from the density -> new images in [-1, 1], with noise; not clamped."""
        return self.decode_both(latent[:0], latent, label, position)[1]

    def decode_both(
        self, old: Tensor, new: Tensor, label: Tensor | None, position: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode in one pass, which takes less time than two.

        Args:
            old: (N, latent_features), of images to reconstruct.
            new: (M, latent_features), from the density.
            label, position: (N + M,) of all, or None.

        Returns: reconstructions, without noise, and new images, with noise; not clamped.
        """
        latent = torch.cat([old, new])
        condition = self.condition(label, position, latent)
        if self.mapping is not None:
            latent = torch.cat([old, self.mapping(new, condition[len(old) :])])
        is_new = torch.cat([torch.zeros_like(old[:, 0]), torch.ones_like(new[:, 0])])
        return self.decoder(latent, condition, is_new).split([len(old), len(new)])

    def forward(self, image: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """Reconstruct from the mean of z, without noise: the most likely image, not a random one; in [-1, 1]."""
        return self.decode(self.encode(image, label, position)[0], label, position).clamp(-1, 1)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int,
        label: int | None = None,
        position: float | None = None,
        temperature: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new images.

        Args:
            count: how many.
            seed: the same one gives the same images on the same kind of device.
            label: class index; None: classes as frequent as in the training set.
            position: slice position in [0, 1]; None: positions as in the training set.
            temperature: variety of the latent vectors; None: the network's own.

        Returns: images (count, C, size, size) in [-1, 1], labels (count,), -1 if unknown, positions (count,), or NaN.
        """
        device = self.density.means.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            temperature = self.temperature if temperature is None else temperature
            latents, labels, positions = self.density.sample(count, label, position, temperature=temperature, even=True)
            parts = zip(latents.split(64), labels.split(64), positions.split(64), strict=False)
            images = torch.cat([self.draw(*part) for part in parts])
        return images.clamp(-1, 1), labels, positions


def check_correction(correction: float | None) -> float | None:
    """Refuse what the encoder's convolutions cannot keep to: a number from 0, or None."""
    if correction is not None and not (is_number(correction) and correction >= 0):
        raise MedsynthError(f"encoder_correction is {correction!r}: give a number from 0, such as 0.1, or null")
    return correction


def check_temperature(temperature: float) -> float:
    """Refuse a temperature that is none, or above that of the training set."""
    if not is_number(temperature) or not 0 < temperature <= 1:
        raise MedsynthError(f"temperature is {temperature!r}: give a number above 0, at most 1: all variety")
    return temperature


class VaeGanCritic(StyleGanDiscriminator):
    """Scores how real images look: StyleGAN's discriminator, residual and at full size from the start.

    Args:
        image_size, image_channels, num_classes, use_position: as the generator's.
        channels: features at half resolution.
    """

    def __init__(
        self,
        image_size: int = 64,
        image_channels: int = 1,
        channels: int = 32,
        num_classes: int = 0,
        use_position: bool = True,
    ) -> None:
        super().__init__(image_size, channels, num_classes, use_position, "skip", 4, image_channels)
