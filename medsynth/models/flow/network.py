"""The network of a rectified flow over maps of latents: a small U-Net that tells noise from latents, in 2D or 3D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError, is_whole
from medsynth.models.flow.solver import SOLVER_STEPS, heun
from medsynth.nn.blocks import ChannelNorm, SelfAttention
from medsynth.nn.conditioning import UNKNOWN_CLASS, Conditioning, TrainingConditions
from medsynth.nn.precision import autocast

TIME_FREQUENCIES = 16
AUGMENTATION_NUMBERS = 6  # that an augmented image is described by, all 0 of one as it is
DRAWN_AT_ONCE = 64
CONVOLUTIONS = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}  # by the axes of a map
FASTEST = {2: torch.channels_last, 3: torch.channels_last_3d}  # order of a map's numbers in memory


class FlowBlock(nn.Module):
    """Two convolutions whose normalizations are scaled and shifted by the condition; starts as the identity.

    Args:
        channels: features in and out.
        condition_features: of the condition.
        dropout: share of the features left out in training.
        axes: of the maps, 2 or 3.

    Reference: Dhariwal & Nichol, arXiv:2105.05233, section 3.1 (adaptive normalization).
    """

    def __init__(self, channels: int, condition_features: int, dropout: float, axes: int = 2) -> None:
        super().__init__()
        convolution, _ = CONVOLUTIONS[axes]
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels, affine=False)
        self.conv1 = convolution(channels, channels, 3, padding=1)
        self.conv2 = convolution(channels, channels, 3, padding=1)
        self.scale_shift = nn.Linear(condition_features, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.conv2, self.scale_shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(N, channels, ...), (N, condition_features) -> (N, channels, ...)."""
        scale, shift = _beside(self.scale_shift(condition), features).chunk(2, dim=1)
        hidden = self.norm2(self.conv1(F.silu(self.norm1(features))))
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        return features + self.conv2(self.dropout(F.silu(hidden)))


class FlowUnet(nn.Module):
    """A U-Net of two resolutions; the coarse one, where most of the network lies, may have self-attention.

    Args:
        channels_in, channels_out: numbers at each place.
        size: places along each axis, which get learned features of their own; None: any, all alike.
        channels: features at both resolutions.
        condition_features: of the condition.
        dropout: as `FlowBlock` takes it.
        axes: of the maps, 2 or 3.
        attention: whether there is self-attention.

    Reference: Ronneberger et al., arXiv:1505.04597.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: Sequence[int] | None,
        channels: Sequence[int],
        condition_features: int,
        dropout: float,
        axes: int = 2,
        attention: bool = True,
    ) -> None:
        super().__init__()
        (fine, coarse), (convolution, transposed) = channels, CONVOLUTIONS[axes]
        more = {"condition_features": condition_features, "dropout": dropout, "axes": axes}
        self.stem = convolution(channels_in, fine, 3, padding=1)
        self.places = nn.Parameter(torch.zeros(1, fine, *size)) if size else 0.0
        self.before = nn.ModuleList(FlowBlock(fine, **more) for _ in range(2))
        self.down = convolution(fine, coarse, 2, stride=2)
        self.middle = nn.ModuleList(FlowBlock(coarse, **more) for _ in range(4))
        self.attention = nn.ModuleList(SelfAttention(coarse) if attention else nn.Identity() for _ in range(4))
        self.up = transposed(coarse, fine, 2, stride=2)
        self.after = nn.ModuleList(FlowBlock(fine, **more) for _ in range(2))
        self.norm = ChannelNorm(fine)
        self.head = convolution(fine, channels_out, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(N, channels_in, ...), (N, condition_features) -> (N, channels_out, ...), float32."""
        features = self.stem(maps) + self.places
        for block in self.before:
            features = block(features, condition)
        coarse = self.down(features)
        for block, attention in zip(self.middle, self.attention, strict=True):
            coarse = attention(block(coarse, condition))
        features = features + self.up(coarse)
        for block in self.after:
            features = block(features, condition)
        return self.head(F.silu(self.norm(features))).float()


class LatentFlow(nn.Module):
    """A prior over maps of latents: moves normal noise, at time 0, along straight paths to latents, at time 1.

    The velocity at x is that of latents without structure, (2t - 1) / d x, plus the network's output over the root of
    d, where d = t^2 + (1 - t)^2 is the variance of x: so what the network reads and what it is to say have variance 1
    at every time.

    Args:
        latent_channels: numbers at each place of a map.
        size: places a side of a square map, or along each of its two or three axes, even numbers.
        channels: features at the full and at half the resolution of the map, multiples of 32.
        dropout: share of the features left out in training.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is a condition.
        covariates: names of continuous conditions.
        augmentation_numbers: that an augmented image is described by, all 0 of one as it is.
        given_channels: numbers at each place of the maps that come with the noise.
        map_channels: how many of these, the last, are a condition that may be unknown, and 0 then: label maps.
        is_local: treats all places alike and looks at their surroundings only, so that maps may have any size.

    Attributes:
        shape: of a map of latents.
        conditions: those of the training set.
        is_fitted: whether it knows how the latents are distributed.

    Reference: Liu et al., rectified flow, arXiv:2209.03003; Lipman et al., flow matching, arXiv:2210.02747; the
    scaling is that of Karras et al., EDM, arXiv:2206.00364, table 1, for these paths.
    """

    def __init__(
        self,
        latent_channels: int,
        size: int | Sequence[int],
        channels: Sequence[int],
        dropout: float,
        num_classes: int = 0,
        use_position: bool = True,
        covariates: Sequence[str] = (),
        augmentation_numbers: int = AUGMENTATION_NUMBERS,
        given_channels: int = 0,
        map_channels: int = 0,
        is_local: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != 2 or any(not is_whole(width) or width < 32 or width % 32 for width in channels):
            raise MedsynthError(f'prior_channels is {channels!r}: give two multiples of 32, such as "[64, 160]"')
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise MedsynthError(f"dropout is {dropout!r}: give a number from 0 to below 1, such as 0.1")
        features = 2 * channels[-1]
        size = (size, size) if isinstance(size, int) else tuple(size)
        axes, ones = len(size), (1,) * len(size)
        self.shape = (latent_channels, *size)
        self.given_channels, self.map_channels = given_channels, map_channels
        self.conditions = TrainingConditions(num_classes, covariates)
        self.condition = Conditioning(num_classes, use_position, features, len(covariates))
        self.augmentation = nn.Linear(augmentation_numbers, features, bias=False)
        self.time = nn.Linear(2 * TIME_FREQUENCIES, features)
        self.mix = nn.Linear(features, features)
        self.network = FlowUnet(
            latent_channels + given_channels,
            latent_channels,
            None if is_local else size,
            channels,
            features,
            dropout,
            axes,
            attention=not is_local,
        ).to(memory_format=FASTEST[axes])
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.linspace(-2, 5, TIME_FREQUENCIES), persistent=False)
        self.register_buffer("mean", torch.zeros(latent_channels, *ones))
        self.register_buffer("deviation", torch.ones(latent_channels, *ones))
        self.register_buffer("is_fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, latents: Tensor, labels: Tensor, positions: Tensor, covariates: Tensor) -> None:
        """Learn mean and deviation of each channel, and the conditions of the training set.

        Args:
            latents: (M, latent_channels, ...), of some or all training images.
            labels, positions, covariates: of all, as `TrainingConditions.fit` takes them.
        """
        values = latents.transpose(0, 1).flatten(1)
        self.mean.copy_(values.mean(dim=1).view_as(self.mean))
        self.deviation.copy_(values.std(dim=1).clamp_min(1e-6).view_as(self.mean))
        self.conditions.fit(labels, positions, covariates)
        self.is_fitted.fill_(True)

    def normalize(self, latents: Tensor) -> Tensor:
        """Each channel to mean 0 and variance 1."""
        return (latents - self.mean) / self.deviation

    def embed(self, label: Tensor | None, position: Tensor | None, covariates: Tensor | None, like: Tensor) -> Tensor:
        """The conditions of each row of `like`, see `Conditioning`; covariates (N, K) in their own units."""
        covariates = None if covariates is None else self.conditions.standardize(covariates)
        return self.condition(label, position, like, covariates)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        condition: Tensor,
        augmentation: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """What the network says about mixtures of noise and normalized latents, see `LatentFlow`.

        Args:
            noisy: (N, latent_channels, ...).
            time: (N,), share of the latents, from 0 to 1.
            condition: from `embed`.
            augmentation: (N, augmentation_numbers); None: images as they are.
            given: (N, given_channels, ...), where the flow has such; without the last `map_channels`, these are
                unknown.
        """
        if self.map_channels:
            known = noisy[:, :0] if given is None else given
            missing = self.given_channels - known.shape[1]
            given = torch.cat([known, noisy.new_zeros(len(noisy), missing, *noisy.shape[2:])], dim=1)
        angles = time[:, None] * self.frequencies
        hidden = condition + self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if augmentation is not None:
            hidden = hidden + self.augmentation(augmentation)
        maps = noisy / _beside(time.square() + (1 - time).square(), noisy).sqrt()
        maps = maps if given is None else torch.cat([maps, given], dim=1)
        return self.network(maps, F.silu(self.mix(F.silu(hidden))))

    def velocity(self, noisy: Tensor, time: Tensor, condition: Tensor, given: Tensor | None = None) -> Tensor:
        """How fast (N, latent_channels, ...) moves towards the latents, at times (N,)."""
        share = _beside(time, noisy)
        variance = share.square() + (1 - share).square()
        said = self(noisy, time, condition, None, given)
        return noisy * (2 * share - 1) / variance + said / variance.sqrt()

    def without_maps(self, given: Tensor | None, where: Tensor | None = None) -> Tensor | None:
        """What is given, its `map_channels` unknown in the rows where `where` (N,) is true; None: in all."""
        if given is None or not self.map_channels:
            return given
        others = self.given_channels - self.map_channels
        if where is None:
            return given[:, :others]
        return torch.cat([given[:, :others], given[:, others:] * ~_beside(where, given)], dim=1)

    @torch.no_grad()
    def travel(
        self,
        start: Tensor,
        label: Tensor | None,
        position: Tensor | None,
        covariates: Tensor | None,
        steps: int = SOLVER_STEPS,
        guidance: float = 1.0,
        backwards: bool = False,
        given: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Noise to latents, or latents to the noise that they come from.

        Args:
            start: (N, latent_channels, ...), noise, or latents when going backwards.
            label, position, covariates: (N,), (N,) and (N, K), see `embed`; None: unknown.
            steps: of Heun's method.
            guidance: how strictly conditions are followed; 1 as learned, more exaggerates them.
            backwards: from latents to noise.
            given: as `forward` takes it.
            known: latents like `start`, and (N, 1, ...), true where they are to come out as they are.

        Reference: Ho & Salimans, classifier-free guidance, arXiv:2207.12598, eq. 6; known parts: Lugmayr et al.,
            RePaint, arXiv:2201.09865, eq. 8.
        """
        start = start.contiguous(memory_format=FASTEST[start.ndim - 2])  # a sixth faster on a CPU
        with autocast(start.device):
            condition = self.embed(label, position, covariates, start)
            free = self.embed(None, None, None, start) if guidance != 1 else None

        def velocity(points: Tensor, time: float) -> Tensor:
            times = torch.full((len(points),), time, device=points.device)
            with autocast(points.device):
                found = self.velocity(points, times, condition, given)
                if free is None:
                    return found
                return torch.lerp(self.velocity(points, times, free, self.without_maps(given)), found, guidance)

        if backwards:
            return heun(velocity, self.normalize(start), 1.0, 0.0, steps)
        if known is None:
            return heun(velocity, start, 0.0, 1.0, steps) * self.deviation + self.mean
        latents, kept = known

        def hold(points: Tensor, time: float) -> Tensor:
            return torch.where(kept, torch.lerp(start, self.normalize(latents), time), points)

        found = heun(velocity, start, 0.0, 1.0, steps, hold) * self.deviation + self.mean
        return torch.where(kept, latents, found)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int,
        label: int | None = None,
        position: float | None = None,
        covariates: dict[str, float] | None = None,
        steps: int = SOLVER_STEPS,
        guidance: float = 1.0,
    ) -> tuple[Tensor, ...]:
        """Draw new maps of latents.

        Args:
            count: how many.
            seed: the same one gives the same maps on the same kind of device.
            label, position, covariates: as `TrainingConditions.sample` takes them; None: as in the training set.
            steps, guidance: as `travel` takes them.

        Returns: latents (count, *shape), labels (count,), -1 where unknown, positions (count,),
            NaN where unknown, and covariates (count, K).
        """
        random = torch.Generator().manual_seed(seed)
        conditions = self.conditions.sample(count, label, position, random, covariates)
        noise = torch.randn(count, *self.shape, generator=random).to(self.mean.device)
        parts = zip(*(part.split(DRAWN_AT_ONCE) for part in (noise, *conditions)), strict=True)
        return torch.cat([self.travel(*part, steps, guidance) for part in parts]), *conditions


def unknown(lost: Tensor, label: Tensor, position: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make all conditions unknown of the rows where `lost` (N,) is true."""
    return (
        torch.where(lost, UNKNOWN_CLASS, label),
        torch.where(lost, torch.nan, position),
        torch.where(lost[:, None], torch.nan, covariates),
    )


def _beside(values: Tensor, maps: Tensor) -> Tensor:
    """(N, ...) with an axis of length 1 for each that maps (N, C, ...) have more."""
    return values.view(*values.shape, *(1,) * (maps.ndim - values.ndim))
