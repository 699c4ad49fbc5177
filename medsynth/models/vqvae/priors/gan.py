"""A VAE-GAN prior over the codes of a VQ-VAE: draws a whole map of them at once.

An encoder of code maps learns the latent vectors, a generator turns them, or normal noise, into maps, and a critic
tells these from real ones. The generator gives logits over the codebook at each place, by which a code is drawn; the
gradient of what follows goes straight through the draw.

References: Larsen et al., VAE-GAN, arXiv:1512.09300; Radford et al., DCGAN, arXiv:1511.06434; Jang et al.,
Gumbel-softmax, arXiv:1611.01144.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.models.vqvae.priors.base import TOGETHER, CodePrior
from medsynth.nn.blocks import ResidualDown, StyledNorm
from medsynth.nn.conditioning import Conditioning, TrainingConditions
from medsynth.nn.map_discriminator import CONDITION_FEATURES, MapDiscriminator

STYLE_FEATURES = 128
WIDEST = 128  # features at coarse scales
NOISE_CHANNELS = 8
SMALLEST_GRID = 4


class StyledResidual(nn.Module):
    """Two styled convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = StyledNorm(channels, STYLE_FEATURES), StyledNorm(channels, STYLE_FEATURES)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N, channels, H, W), (N, STYLE_FEATURES) -> (N, channels, H, W)."""
        hidden = self.conv1(F.leaky_relu(self.norm1(features, style), 0.2))
        return features + self.conv2(F.leaky_relu(self.norm2(hidden, style), 0.2))


class MapEncoder(nn.Module):
    """Code maps to the mean and log-variance of their latent vectors.

    Args:
        code_features, grid: of a code; places a side of a map.
        channels: features of a place.
        latent_features: length of a latent vector.
    """

    def __init__(self, code_features: int, grid: int, channels: int, latent_features: int) -> None:
        super().__init__()
        widths = _widths(grid, channels)
        self.stem = nn.Conv2d(code_features, channels, 3, padding=1)
        self.down = nn.ModuleList(ResidualDown(a, b, normalize=True) for a, b in zip(widths, widths[1:], strict=False))
        self.norm = nn.GroupNorm(8, widths[-1])
        self.out = nn.Linear((grid >> len(self.down)) ** 2 * widths[-1], 2 * latent_features)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(N, code_features, h, w) -> mean and log-variance, (N, latent_features) each."""
        features = self.stem(codes)
        for down in self.down:
            features = down(features)
        mean, log_variance = self.out(F.leaky_relu(self.norm(features), 0.2).flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-8, 4)


class MapGenerator(nn.Module):
    """Latent vectors to features of a map: a small map grows, then meets noise at its full size.

    Args:
        latent_features, grid, channels: of a latent vector; places a side of the map; features of a place.

    Reference: Radford et al., DCGAN, arXiv:1511.06434; style and noise as in Karras et al., arXiv:1812.04948.
    """

    def __init__(self, latent_features: int, grid: int, channels: int) -> None:
        super().__init__()
        levels = halvings(grid)
        self.size = grid >> levels
        self.style = nn.Linear(latent_features + CONDITION_FEATURES, STYLE_FEATURES)
        self.start = nn.Linear(latent_features + CONDITION_FEATURES, self.size**2 * channels)
        self.up = nn.ModuleList(StyledResidual(channels) for _ in range(levels))
        self.mix = nn.Conv2d(channels + NOISE_CHANNELS, channels, 3, padding=1)
        self.full = nn.ModuleList(StyledResidual(channels) for _ in range(3))
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """(N, latent_features), (N, CONDITION_FEATURES) -> (N, channels, h, w)."""
        latent = torch.cat([latent, condition], dim=1)
        style = F.leaky_relu(self.style(latent), 0.2)
        features = self.start(latent).unflatten(1, (-1, self.size, self.size))
        for block in self.up:
            features = F.interpolate(block(features, style), scale_factor=2, mode="nearest")
        noise = torch.randn_like(features[:, :1].expand(-1, NOISE_CHANNELS, -1, -1))
        features = self.mix(torch.cat([features, noise], dim=1))
        for block in self.full:
            features = block(features, style)
        return F.leaky_relu(self.norm(features), 0.2)


class CodeGan(CodePrior):
    """Draws code maps in one go, from normal noise, a class and a slice position.

    Args:
        stage_one: arguments of its `SliceVqVae`.
        channels: features of a place.
        latent_features: length of a latent vector.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is an input.

    Attributes:
        encoder: of code maps, for training alone.
        conditions: classes and positions of training slices, for samples without given ones.
    """

    def __init__(
        self,
        stage_one: dict[str, Any],
        channels: int,
        latent_features: int,
        num_classes: int,
        use_position: bool,
    ) -> None:
        super().__init__(stage_one)
        self.latent_features, features = latent_features, self.stage_one.code_features
        self.conditions = TrainingConditions(num_classes)
        self.conditioning = Conditioning(num_classes, use_position, CONDITION_FEATURES)
        self.encoder = MapEncoder(features, self.grid, channels, latent_features)
        self.generator = MapGenerator(latent_features, self.grid, channels)
        self.out = nn.Conv2d(channels, self.stage_one.num_codes, 1)

    @property
    def codes(self) -> Tensor:
        """(num_codes, code_features)."""
        return self.stage_one.codebook.codes

    def scaled(self, codes: Tensor) -> Tensor:
        """Codes (N, code_features, h, w) in standard deviations of the codebook's, as networks and losses take them."""
        return codes / self.codes.std(dim=0)[:, None, None]

    def encode(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, code_features, h, w) -> mean and log-variance of latent vectors, (N, latent_features) each."""
        return self.encoder(self.scaled(codes))

    def logits(self, latent: Tensor, label: Tensor | None, position: Tensor | None) -> Tensor:
        """Latent vectors (N, latent_features) -> logits of the codes (N, h, w, num_codes), float32."""
        features = self.generator(latent, self.conditioning(label, position, latent))
        return self.out(features).movedim(1, -1).float()

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draw codes (N, code_features, h, w), exactly, whose gradient is the softmax's; and indices (N, h, w).

        Reference: Jang et al., straight-through Gumbel-softmax, arXiv:1611.01144, section 2.2.
        """
        noisy = logits - torch.rand_like(logits).log_().neg_().log_()
        indices = noisy.argmax(dim=-1)
        chosen = F.embedding(indices, self.codes)
        if logits.requires_grad:
            with torch.autocast(logits.device.type, enabled=False):
                soft = noisy.softmax(dim=-1) @ self.codes
            chosen = chosen + (soft - soft.detach())
        return chosen.movedim(-1, 1), indices

    def noise(self, count: int) -> Tensor:
        """(count, latent_features), normal, by torch's own random state."""
        return torch.randn(count, self.latent_features, device=self.codes.device)

    def draw(self, count: int, label: int | None, position: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Code maps (count, h, w), their labels and positions, by torch's own random state."""
        labels, positions, _ = self.conditions.sample(count, label, position)
        parts = zip(*(part.split(TOGETHER) for part in (self.noise(count), labels, positions)), strict=True)
        return torch.cat([self.choose(self.logits(*part))[1] for part in parts]), labels, positions


class CodeDiscriminator(MapDiscriminator):
    """Judges code maps, as `CodeGan.scaled` gives them.

    Args:
        image_size, stride, code_features: of stage one.
        channels: features at the finest scale.
        num_classes, use_position: as the generator's.
    """

    def __init__(
        self,
        image_size: int,
        stride: int,
        code_features: int,
        channels: int,
        num_classes: int,
        use_position: bool,
    ) -> None:
        grid = image_size // stride
        super().__init__(code_features, grid, _widths(grid, channels), num_classes, use_position)


def halvings(size: int) -> int:
    """How often `size` halves until it would fall below `SMALLEST_GRID` or be odd."""
    count = 0
    while size % 2 == 0 and size // 2 >= SMALLEST_GRID:
        size, count = size // 2, count + 1
    return count


def _widths(size: int, channels: int) -> list[int]:
    """Features at each scale: doubling, at most `WIDEST`."""
    return [min(channels * 2**level, max(WIDEST, channels)) for level in range(max(halvings(size), 1) + 1)]
