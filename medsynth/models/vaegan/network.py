"""The attention VAE-GAN: an encoder to a map of latents, and a decoder that is the GAN's generator.

All of it is fully convolutional: trained at one size, the autoencoder takes any multiple of its factor.

Reference: Larsen et al., VAE-GAN, arXiv:1512.09300; the attention is CBAM's (`attention.py`) and SAGAN's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError, check_whole, is_whole
from medsynth.models.flow.label_map_prior import LabelMapPrior
from medsynth.models.flow.label_maps import channels_of, told
from medsynth.models.flow.network import LatentFlow
from medsynth.models.vaegan.attention import ChannelSpatialAttention
from medsynth.nn.blocks import ChannelNorm, SelfAttention

FACTORS = (2, 4, 8)
FIRST_LOG_VARIANCE = -6.0
DECODED_AT_ONCE = 64  # images


class ResidualBlock(nn.Module):
    """Two convolutions, added to what they read; starts as the identity.

    Args:
        channels: features in and out.
        attention: whether channels and places of what is added are weighted (CBAM).

    Reference: He et al., arXiv:1603.05027, the pre-activation order.
    """

    def __init__(self, channels: int, attention: bool = False) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = ChannelSpatialAttention(channels) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        hidden = self.conv1(F.leaky_relu(self.norm(features), 0.2))
        return features + self.attention(self.conv2(F.leaky_relu(hidden, 0.2)))


def linear_layer(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A convolution that no activation follows; starts as an orthogonal map of each place, without its neighbours.

    Reference: Xiao et al., arXiv:1806.05393, section 3.2 (delta-orthogonal).
    """
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.orthogonal_(layer.weight[:, :, 1, 1])
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Sequential):
    """(N, 1, H, W) -> mean and log-variance of z, side by side: (N, 2 * latent_channels, H / factor, W / factor).

    From image to z, the residual stream stays linear: with a normalization before the last layer, reconstructions
    were 7 dB worse after the same time.
    """

    def __init__(self, channels: int, latent_channels: int, factor: int) -> None:
        super().__init__(
            nn.PixelUnshuffle(factor),
            linear_layer(factor**2, channels),
            ResidualBlock(channels),
            ResidualBlock(channels),
            SelfAttention(channels),
            linear_layer(channels, 2 * latent_channels),
        )
        with torch.no_grad():  # little noise at first: reconstructions are of use from the first steps on
            self[-1].weight[latent_channels:] = 0
            self[-1].bias[latent_channels:] = FIRST_LOG_VARIANCE


class Decoder(nn.Module):
    """z (N, latent_channels, h, w) -> images (N, 1, factor * h, factor * w); the generator of the GAN.

    A linear layer says what the image is in the large; a tail of convolutions at growing resolutions adds the detail.
    """

    def __init__(self, channels: int, latent_channels: int, factor: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            linear_layer(latent_channels, channels),
            ResidualBlock(channels, attention=True),
            SelfAttention(channels),
            ResidualBlock(channels, attention=True),
            ResidualBlock(channels, attention=True),
        )
        self.coarse = nn.Sequential(linear_layer(channels, factor**2), nn.PixelShuffle(factor))
        layers, width = [ChannelNorm(channels)], channels
        while factor > 1:
            factor //= 2
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(width, 64 * factor, 3, padding=1), nn.PixelShuffle(2)]
            width = 16 * factor
        self.detail = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Images, not clamped, so that gradients pass."""
        features = self.body(z)
        return self.coarse(features) + self.detail(features)


class VaeGan(nn.Module):
    """Encoder and decoder around a map of latents z, and the prior that new maps are drawn from.

    Args:
        image_size: pixels a side of the images that are drawn, a multiple of twice the factor; images that are only
            encoded and decoded may have any other multiple of the factor.
        factor: pixels a side that one place of z stands for: 2, 4 or 8.
        latent_channels: numbers at each place of z.
        channels: features of the encoder; the decoder has half as many more.
        prior_channels, dropout: of the prior, as `LatentFlow` takes them.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is a condition of the prior.
        covariates: names of its continuous conditions.
        segmentation_classes: classes of the label maps that are a condition of the prior, the background among them;
            0: none are. It draws such maps itself, and images without them too.
    """

    def __init__(
        self,
        image_size: int,
        factor: int,
        latent_channels: int,
        channels: int,
        prior_channels: Sequence[int],
        dropout: float,
        num_classes: int,
        use_position: bool,
        covariates: Sequence[str],
        segmentation_classes: int = 0,  # models of earlier versions have none
    ) -> None:
        super().__init__()
        _check_sizes(image_size, factor, latent_channels, channels)
        self.factor, self.segmentation_classes = factor, segmentation_classes
        self.encoder = Encoder(channels, latent_channels, factor)
        self.decoder = Decoder(channels * 3 // 2, latent_channels, factor)
        conditions = {"num_classes": num_classes, "use_position": use_position, "covariates": covariates}
        given = dict.fromkeys(("given_channels", "map_channels"), channels_of(segmentation_classes))
        self.prior = LatentFlow(latent_channels, image_size // factor, prior_channels, dropout, **conditions, **given)
        self.map_prior = None
        if segmentation_classes:
            self.map_prior = LabelMapPrior(segmentation_classes, image_size, factor, dropout, **conditions)

    @property
    def conditions(self) -> nn.Module:
        """The classes, positions and covariates of the training set."""
        return self.prior.conditions

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """Those of encoder and decoder."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def prior_parameters(self) -> list[nn.Parameter]:
        """Those of the prior, and of that of label maps."""
        return [*self.prior.parameters(), *(self.map_prior.parameters() if self.map_prior else ())]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W) in [-1, 1] -> mean and log-variance of z, (N, latent_channels, H / factor, W / factor) each."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def latents(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> the mean of z, which the prior is over."""
        return self.encode(images)[0]

    def given(self, segmentation: Tensor, grid: Tensor | None = None) -> Tensor:
        """Label maps (N, 1, H, W), indices of the classes -> what the prior is told of them, see `told`."""
        return told(segmentation, self.segmentation_classes, self.factor, grid)

    def decode(self, z: Tensor) -> Tensor:
        """z -> images (N, 1, H, W), not clamped."""
        return self.decoder(z).float()

    def forward(self, images: Tensor, *conditions: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> reconstructions from the mean of z; no condition makes a difference to them."""
        return self.decode(self.latents(images)).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, count: int, seed: int, **request) -> tuple[Tensor, ...]:
        """Draw new images (count, 1, size, size) in [-1, 1], with the conditions that `LatentFlow.sample` returns."""
        z, *conditions = self.prior.sample(count, seed, **request)
        return torch.cat([self.decode(part) for part in z.split(DECODED_AT_ONCE)]).clamp(-1, 1), *conditions


def _check_sizes(image_size: int, factor: int, latent_channels: int, channels: int) -> None:
    if factor not in FACTORS:
        raise MedsynthError(f"factor is {factor!r}: choose one of {', '.join(map(str, FACTORS))}")
    check_whole("latent_channels", latent_channels, 1)
    if not is_whole(channels) or channels < 32 or channels % 32:
        nearest = max(32, round(channels / 32) * 32) if is_whole(channels) else 64
        raise MedsynthError(f"channels is {channels!r}: give a multiple of 32, such as {nearest}")
    step = 2 * factor
    if not is_whole(image_size) or image_size < 16 or image_size % step:
        nearest = max(16, round(image_size / step) * step) if is_whole(image_size) else 64
        raise MedsynthError(
            f"image_size {image_size}: this network needs a multiple of {step} from 16 on, such as {nearest}; "
            f"set --image_size {nearest}"
        )
