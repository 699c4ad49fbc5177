"""The network of a rectified flow over maps of latents: a small U-Net that tells noise from latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError, is_whole
from medsynth.models.flow.solver import heun
from medsynth.nn.blocks import ChannelNorm, SelfAttention
from medsynth.nn.conditioning import UNKNOWN_CLASS, Conditioning, TrainingConditions
from medsynth.nn.precision import autocast

TIME_FREQUENCIES = 16
AUGMENTATION_NUMBERS = 6  # that an augmented image is described by, all 0 of one as it is
DRAWN_AT_ONCE = 64
SOLVER_STEPS = 8  # of Heun's method, each two evaluations of the network; more change nothing that is seen


class FlowBlock(nn.Module):
    """Two convolutions whose normalizations are scaled and shifted by the condition; starts as the identity.

    Args:
        channels: features in and out.
        condition_features: of the condition.
        dropout: share of the features left out in training.

    Reference: Dhariwal & Nichol, arXiv:2105.05233, section 3.1 (adaptive normalization).
    """

    def __init__(self, channels: int, condition_features: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels, affine=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale_shift = nn.Linear(condition_features, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.conv2, self.scale_shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(N, channels, H, W), (N, condition_features) -> (N, channels, H, W)."""
        scale, shift = self.scale_shift(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(self.conv1(F.silu(self.norm1(features))))
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        return features + self.conv2(self.dropout(F.silu(hidden)))


class FlowUnet(nn.Module):
    """A U-Net of two resolutions; the coarse one, where most of the network lies, has self-attention in each block.

    Args:
        latent_channels: numbers at each place.
        size: places a side.
        channels: features at both resolutions.
        condition_features: of the condition.
        dropout: as `FlowBlock` takes it.

    Reference: Ronneberger et al., arXiv:1505.04597.
    """

    def __init__(
        self, latent_channels: int, size: int, channels: Sequence[int], condition_features: int, dropout: float
    ) -> None:
        super().__init__()
        fine, coarse = channels
        more = {"condition_features": condition_features, "dropout": dropout}
        self.stem = nn.Conv2d(latent_channels, fine, 3, padding=1)
        self.places = nn.Parameter(torch.zeros(1, fine, size, size))
        self.before = nn.ModuleList(FlowBlock(fine, **more) for _ in range(2))
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.middle = nn.ModuleList(FlowBlock(coarse, **more) for _ in range(4))
        self.attention = nn.ModuleList(SelfAttention(coarse) for _ in range(4))
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.after = nn.ModuleList(FlowBlock(fine, **more) for _ in range(2))
        self.norm = ChannelNorm(fine)
        self.head = nn.Conv2d(fine, latent_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        """(N, latent_channels, size, size), (N, condition_features) -> the shape of the latents, float32."""
        features = self.stem(latents) + self.places
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
        size: places a side, an even number.
        channels: features at the full and at half the resolution of the map, multiples of 32.
        dropout: share of the features left out in training.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is a condition.
        covariates: names of continuous conditions.

    Attributes:
        conditions: those of the training set.
        is_fitted: whether it knows how the latents are distributed.

    Reference: Liu et al., rectified flow, arXiv:2209.03003; Lipman et al., flow matching, arXiv:2210.02747; the
    scaling is that of Karras et al., EDM, arXiv:2206.00364, table 1, for these paths.
    """

    def __init__(
        self,
        latent_channels: int,
        size: int,
        channels: Sequence[int],
        dropout: float,
        num_classes: int = 0,
        use_position: bool = True,
        covariates: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(channels) != 2 or any(not is_whole(width) or width < 32 or width % 32 for width in channels):
            raise MedsynthError(f'prior_channels is {channels!r}: give two multiples of 32, such as "[64, 160]"')
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise MedsynthError(f"dropout is {dropout!r}: give a number from 0 to below 1, such as 0.1")
        features = 2 * channels[-1]
        self.shape = (latent_channels, size, size)
        self.conditions = TrainingConditions(num_classes, covariates)
        self.condition = Conditioning(num_classes, use_position, features, len(covariates))
        self.augmentation = nn.Linear(AUGMENTATION_NUMBERS, features, bias=False)
        self.time = nn.Linear(2 * TIME_FREQUENCIES, features)
        self.mix = nn.Linear(features, features)
        self.network = FlowUnet(latent_channels, size, channels, features, dropout)
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.linspace(-2, 5, TIME_FREQUENCIES), persistent=False)
        self.register_buffer("mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("deviation", torch.ones(latent_channels, 1, 1))
        self.register_buffer("is_fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, latents: Tensor, labels: Tensor, positions: Tensor, covariates: Tensor) -> None:
        """Learn mean and deviation of each channel, and the conditions of the training set.

        Args:
            latents: (M, latent_channels, size, size), of some or all training images.
            labels, positions, covariates: of all, as `TrainingConditions.fit` takes them.
        """
        self.mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
        self.deviation.copy_(latents.std(dim=(0, 2, 3))[:, None, None].clamp_min(1e-6))
        self.conditions.fit(labels, positions, covariates)
        self.is_fitted.fill_(True)

    def normalize(self, latents: Tensor) -> Tensor:
        """Each channel to mean 0 and variance 1."""
        return (latents - self.mean) / self.deviation

    def embed(self, label: Tensor | None, position: Tensor | None, covariates: Tensor | None, like: Tensor) -> Tensor:
        """The conditions of each row of `like`, see `Conditioning`; covariates (N, K) in their own units."""
        covariates = None if covariates is None else self.conditions.standardize(covariates)
        return self.condition(label, position, like, covariates)

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor, augmentation: Tensor | None = None) -> Tensor:
        """What the network says about mixtures of noise and normalized latents, see `LatentFlow`.

        Args:
            noisy: (N, latent_channels, size, size).
            time: (N,), share of the latents, from 0 to 1.
            condition: from `embed`.
            augmentation: (N, AUGMENTATION_NUMBERS); None: images as they are.
        """
        angles = time[:, None] * self.frequencies
        hidden = condition + self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if augmentation is not None:
            hidden = hidden + self.augmentation(augmentation)
        variance = (time.square() + (1 - time).square())[:, None, None, None]
        return self.network(noisy / variance.sqrt(), F.silu(self.mix(F.silu(hidden))))

    def velocity(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """How fast (N, latent_channels, size, size) moves towards the latents, at times (N,)."""
        share = time[:, None, None, None]
        variance = share.square() + (1 - share).square()
        return noisy * (2 * share - 1) / variance + self(noisy, time, condition) / variance.sqrt()

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
    ) -> Tensor:
        """Noise to latents, or latents to the noise that they come from.

        Args:
            start: (N, latent_channels, size, size), noise, or latents when going backwards.
            label, position, covariates: (N,), (N,) and (N, K), see `embed`; None: unknown.
            steps: of Heun's method.
            guidance: how strictly conditions are followed; 1 as learned, more exaggerates them.
            backwards: from latents to noise.

        Reference: Ho & Salimans, classifier-free guidance, arXiv:2207.12598, eq. 6.
        """
        start = start.contiguous(memory_format=torch.channels_last)  # a sixth faster on a CPU
        with autocast(start.device):
            condition = self.embed(label, position, covariates, start)
            free = self.embed(None, None, None, start) if guidance != 1 else None

        def velocity(points: Tensor, time: float) -> Tensor:
            times = torch.full((len(points),), time, device=points.device)
            with autocast(points.device):
                found = self.velocity(points, times, condition)
                if free is None:
                    return found
                return torch.lerp(self.velocity(points, times, free), found, guidance)

        if backwards:
            return heun(velocity, self.normalize(start), 1.0, 0.0, steps)
        return heun(velocity, start, 0.0, 1.0, steps) * self.deviation + self.mean

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

        Returns: latents (count, latent_channels, size, size), labels (count,), -1 where unknown, positions (count,),
            NaN where unknown, and covariates (count, K).
        """
        random = torch.Generator().manual_seed(seed)
        conditions = self.conditions.sample(count, label, position, random, covariates)
        noise = torch.randn(count, *self.shape, generator=random).to(self.mean.device)
        parts = zip(*(part.split(DRAWN_AT_ONCE) for part in (noise, *conditions)), strict=True)
        return torch.cat([self.travel(*part, steps, guidance) for part in parts]), *conditions


def forget(share: float, label: Tensor, position: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make all conditions of a random share of the rows unknown, so that the flow learns to go without."""
    lost = torch.rand(len(label), device=label.device) < share
    return (
        torch.where(lost, UNKNOWN_CLASS, label),
        torch.where(lost, torch.nan, position),
        torch.where(lost[:, None], torch.nan, covariates),
    )
