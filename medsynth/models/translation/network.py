"""Translation between two domains: a U-Net with a variational bottleneck for each direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.nn.conditioning import Conditioning

GROUPS = 8  # of every group normalization
UNPOOL = 2  # the finest features are at half resolution, by pixel unshuffle, which loses nothing


FIRST_LOG_VARIANCE = -4.0  # of the latent map; the prior's is 0
LOG_VARIANCES = (-10.0, 4.0)  # smallest and largest, so that no draw overflows
NOTHING = -0.999  # a contrast that is nowhere brighter is missing: all its pixels are -1, or a rounding error above


class Filters(nn.Module):
    """Convolutions of several sizes side by side, each making its share of the channels.

    Reference: Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, fig. 2a.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        shares = [channels_out // len(kernel_sizes)] * len(kernel_sizes)
        shares[0] += channels_out - sum(shares)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels_in, share, size, padding=size // 2)
            for share, size in zip(shares, kernel_sizes, strict=True)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H, W)."""
        return torch.cat([convolution(features) for convolution in self.convolutions], dim=1)


class ResidualBlock(nn.Module):
    """Twice group normalization, SiLU and a 3 x 3 convolution, added to what came in; starts as the identity.

    Reference: He et al., arXiv:1603.05027, the pre-activation order; Wu & He, group normalization, arXiv:1803.08494.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        hidden = self.conv1(F.silu(self.norm1(features)))
        return features + self.conv2(F.silu(self.norm2(hidden)))


class UNetVae(nn.Module):
    """An image of one domain -> the same slice in the other domain.

    Fine structure passes through skip connections, coarse structure through a latent map with a mean and a variance, so
    that the output is a distribution. Pixel coordinates and slice position are inputs.

    Args:
        neighbours: slices on each side that are further channels.
        channels: at half resolution, at a quarter and so on; multiples of 8.
        latent_channels: of the latent map, which is as coarse as the last of `channels`.
        kernel_sizes: odd sizes of the first filters.
        use_position: whether pixel coordinates and slice position are inputs.
        contrasts: of the image, each with its neighbours; of several, some may be missing, which is -1 everywhere, and
            which of them are there is an input.

    Attributes:
        stride: pixels per side of an image to one of the latent map; sides of an image are multiples of it.

    Reference: Ronneberger et al., U-Net, arXiv:1505.04597; Kingma & Welling, arXiv:1312.6114.
    """

    def __init__(
        self,
        neighbours: int,
        channels: Sequence[int],
        latent_channels: int,
        kernel_sizes: Sequence[int],
        use_position: bool,
        contrasts: int = 1,
    ) -> None:
        super().__init__()
        if not channels or any(count < GROUPS or count % GROUPS for count in channels):
            raise MedsynthError(f"channels are {list(channels)}: give multiples of {GROUPS}, one for each resolution")
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise MedsynthError(f"kernel_sizes are {list(kernel_sizes)}: give odd numbers, such as [3, 5]")
        self.use_position, self.contrasts = use_position, contrasts
        self.stride = UNPOOL * 2 ** (len(channels) - 1)
        levels = list(zip(channels, channels[1:], strict=False))
        given = UNPOOL**2 * (1 + 2 * neighbours) * contrasts + 2 * use_position + (contrasts if contrasts > 1 else 0)
        self.stem = Filters(given, channels[0], kernel_sizes)
        self.condition = Conditioning(0, use_position, channels[0])
        self.encode = nn.ModuleList(ResidualBlock(fine) for fine, _ in levels)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in levels)
        self.posterior = nn.Sequential(ResidualBlock(channels[-1]), nn.Conv2d(channels[-1], 2 * latent_channels, 1))
        self.latent = nn.Sequential(nn.Conv2d(latent_channels, channels[-1], 1), ResidualBlock(channels[-1]))
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in levels)
        self.decode = nn.ModuleList(ResidualBlock(fine) for fine, _ in levels)
        self.norm = nn.GroupNorm(GROUPS, channels[0])
        self.head = nn.Conv2d(channels[0], UNPOOL**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.posterior[-1].bias[latent_channels:], FIRST_LOG_VARIANCE)

    def translate(self, image: Tensor, position: Tensor | None, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The translation, and the latent distribution for training.

        Args:
            image: (N, contrasts * (1 + 2 * neighbours), H, W) in [-1, 1].
            position: (N,) from 0 to 1, NaN where unknown; None: unknown for all.
            sample: decode a draw from the latent distribution, else its mean.

        Returns: the translation (N, 1, H, W), not clamped, so that gradients pass; mean and log-variance of the latent
            map, (N, latent_channels, H / stride, W / stride).

        Raises:
            MedsynthError: the sides are no multiples of the stride.
        """
        require_multiple(image.shape[-2:], self.stride)
        features = F.pixel_unshuffle(image, UNPOOL)
        if self.use_position:
            features = torch.cat([features, coordinates(features)], dim=1)
        if self.contrasts > 1:
            known = present(image, self.contrasts).to(features.dtype)[:, :, None, None]
            features = torch.cat([features, known.expand(-1, -1, *features.shape[2:])], dim=1)
        position = image.new_full(image.shape[:1], torch.nan) if position is None else position
        condition = self.condition(None, position, image)
        features = self.stem(features) + condition[:, :, None, None]
        skips = []
        for block, down in zip(self.encode, self.down, strict=True):
            skips.append(block(features))
            features = down(skips[-1])
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCES)
        features = self.latent(mean + (log_variance / 2).exp() * torch.randn_like(mean) if sample else mean)
        for block, up in zip(reversed(self.decode), reversed(self.up), strict=True):
            features = block(F.interpolate(up(features), scale_factor=2, mode="nearest") + skips.pop())
        output = F.pixel_shuffle(self.head(F.silu(self.norm(features))), UNPOOL)
        return output.float(), mean, log_variance

    def forward(self, image: Tensor, position: Tensor | None = None, sample: bool = False) -> Tensor:
        """(N, contrasts * (1 + 2 * neighbours), H, W) -> the translation (N, 1, H, W) in [-1, 1].

        `sample` draws one of many.
        """
        return self.translate(image, position, sample)[0].clamp(-1, 1)


class Translator(nn.Module):
    """Both directions of a translation; of several contrasts, the one from these to the target.

    Args:
        image_size: pixels a side of the training slices.
        neighbours, channels, latent_channels, kernel_sizes, use_position: of each direction, see `UNetVae`.
        contrasts: names of those that make up the source, in the order of the channels; none: it is one image.

    Raises:
        MedsynthError: an image size that is no multiple of the stride.
    """

    def __init__(
        self,
        image_size: int,
        neighbours: int,
        channels: Sequence[int],
        latent_channels: int,
        kernel_sizes: Sequence[int],
        use_position: bool,
        contrasts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.contrasts = tuple(contrasts)
        own = (neighbours, channels, latent_channels, kernel_sizes, use_position)
        self.source_to_target = UNetVae(*own, contrasts=max(1, len(contrasts)))
        if not contrasts:
            self.target_to_source = UNetVae(*own)
        require_multiple((image_size, image_size), self.source_to_target.stride)

    def forward(
        self,
        source: Tensor,
        target: Tensor | None = None,
        source_position: Tensor | None = None,
        target_position: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Slices of both domains -> the sources as targets and the targets as sources, each (N, 1, H, W).

        Without targets, and where sources are several contrasts, the sources as targets alone.
        """
        made = self.source_to_target(source, source_position)
        return made if target is None or self.contrasts else (made, self.target_to_source(target, target_position))


def coordinates(features: Tensor) -> Tensor:
    """(N, C, H, W) -> row and column of each pixel as two channels (N, 2, H, W), from -1 to 1."""
    count, _, *size = features.shape
    axes = [torch.linspace(-1, 1, length, device=features.device, dtype=features.dtype) for length in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(count, 2, *size)


def present(image: Tensor, contrasts: int) -> Tensor:
    """(N, contrasts * C, H, W) -> (N, contrasts), which of them show anything; all of a missing one is -1."""
    return image.unflatten(1, (contrasts, -1)).amax(dim=(2, 3, 4)) > NOTHING


def middle(slices: Tensor, contrasts: int = 1) -> Tensor:
    """(N, contrasts * (1 + 2 * neighbours), H, W) -> the slice between its neighbours, (N, 1, H, W).

    Of several contrasts, the brightest at each pixel.
    """
    channels = slices.shape[1] // contrasts
    own = slices[:, channels // 2 :: channels]
    return own if contrasts == 1 else own.amax(dim=1, keepdim=True)


def require_multiple(size: Sequence[int], stride: int) -> None:
    """Refuse an image whose rows and columns are no multiples of `stride`."""
    if any(length < stride or length % stride for length in size):
        fitting = max(stride, round(size[0] / stride) * stride)
        raise MedsynthError(
            f"image_size {' x '.join(map(str, size))}: this network needs a multiple of {stride}, such as {fitting}; "
            f"set --image_size {fitting}"
        )
