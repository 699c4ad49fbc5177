"""A GAN prior over the codes of a VQ-VAE: draws a whole map of them at once.

It never makes up integers. Each place gets logits over the codebook or an embedding, from which a code is chosen, and
the gradient of what follows goes straight through the choice.

References: Radford et al., DCGAN, arXiv:1511.06434; Jang et al., Gumbel-softmax, arXiv:1611.01144.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.distributed import mean_of_all
from medsynth.errors import MedsynthError
from medsynth.models.vqvae.priors.base import TOGETHER, CodePrior
from medsynth.nn.blocks import StyledNorm
from medsynth.nn.components import PrincipalComponents
from medsynth.nn.conditioning import Conditioning
from medsynth.nn.density import GaussianMixtureDensity
from medsynth.nn.map_discriminator import CONDITION_FEATURES, MapDiscriminator

STYLE_FEATURES = 128
WIDEST = 128  # features of a critic's coarse scales
NOISE_CHANNELS = 8
SMALLEST_GRID = 4
FINEST_SKETCH = 64  # pixels a side; principal components of more would not be worth their cost
SMALLEST_ERROR = 0.01  # of the codes' variance: what nothing is surer than
MOST_TO_FIT = 4096  # slices that linear maps are fitted to
SPREAD_MOMENTUM = 0.02  # of the moving mean squares that tell how varied images are
GAIN_RATE = 0.01  # of the way that the gain goes in a step
LARGEST_GAIN = 1.5


class StyledResidual(nn.Module):
    """Two styled convolutions beside a shortcut; the last starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = StyledNorm(channels, STYLE_FEATURES), StyledNorm(channels, STYLE_FEATURES)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N, channels, H, W), (N, STYLE_FEATURES) -> (N, channels, H, W)."""
        hidden = self.conv1(F.leaky_relu(self.norm1(features, style), 0.2))
        return features + self.conv2(F.leaky_relu(self.norm2(hidden, style), 0.2))


class MapGenerator(nn.Module):
    """Latent vectors to features of a map: a small map grows, then meets the sketch and noise at its full size.

    Args:
        latent_features, grid, channels: of a latent vector; places a side of the map; features of a place.
        sketch_channels: of what is known of each place before.

    Reference: Radford et al., DCGAN, arXiv:1511.06434.
    """

    def __init__(self, latent_features: int, sketch_channels: int, grid: int, channels: int) -> None:
        super().__init__()
        levels = halvings(grid)
        self.size = grid >> levels
        self.style = nn.Linear(latent_features + CONDITION_FEATURES, STYLE_FEATURES)
        self.start = nn.Linear(latent_features + CONDITION_FEATURES, self.size**2 * channels)
        self.up = nn.ModuleList(StyledResidual(channels) for _ in range(levels))
        self.mix = nn.Conv2d(channels + sketch_channels + NOISE_CHANNELS, channels, 3, padding=1)
        self.full = nn.ModuleList(StyledResidual(channels) for _ in range(3))
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, latent: Tensor, condition: Tensor, sketch: Tensor) -> Tensor:
        """(N, latent_features), (N, CONDITION_FEATURES), (N, sketch_channels, h, w) -> (N, channels, h, w)."""
        latent = torch.cat([latent, condition], dim=1)
        style = F.leaky_relu(self.style(latent), 0.2)
        features = self.start(latent).unflatten(1, (-1, self.size, self.size))
        for block in self.up:
            features = F.interpolate(block(features, style), scale_factor=2, mode="nearest")
        noise = torch.randn_like(sketch[:, :1].expand(-1, NOISE_CHANNELS, -1, -1))
        features = self.mix(torch.cat([features, sketch.to(features.dtype), noise.to(features.dtype)], dim=1))
        for block in self.full:
            features = block(features, style)
        return F.leaky_relu(self.norm(features), 0.2)


class GumbelHead(nn.Module):
    """Gives logits over the codebook and draws a code at each place: Gumbel-softmax with a straight-through gradient.

    A logit is the likelihood of the code around where the place aims at, and a learned rest.

    Reference: Jang et al., arXiv:1611.01144, section 2.2.
    """

    def __init__(self, channels: int, num_codes: int, code_features: int, grid: int) -> None:
        super().__init__()
        self.register_buffer("precision", torch.ones(grid, grid, code_features))
        self.rest = started_at_zero(nn.Conv2d(channels, num_codes, 1))

    def start(self, errors: Tensor, codes: Tensor) -> None:
        """Take the likelihoods of normal errors, given those of the aims (M, features, h, w) so far."""
        smallest = SMALLEST_ERROR * codes.var(dim=0)
        self.precision.copy_(1 / (errors.square().mean(dim=0).movedim(0, -1) + smallest))

    def forward(self, features: Tensor, aims: Tensor, codes: Tensor) -> Tensor:
        """Features (N, channels, h, w) and aims (N, features, h, w) -> logits (N, h, w, num_codes), float32."""
        with torch.autocast(aims.device.type, enabled=False):
            near = (aims.movedim(1, -1) * self.precision) @ codes.T - self.precision @ codes.square().T / 2
        return near + self.rest(features).movedim(1, -1).float()

    def choose(self, logits: Tensor, codes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draw codes (N, features, h, w), exactly, whose gradient goes to the logits; and their indices (N, h, w).

        Args:
            temperature: of the softmax whose gradient stands in for that of the choice.
        """
        noisy = logits - torch.rand_like(logits).log_().neg_().log_()
        indices = noisy.argmax(dim=-1)
        chosen = F.embedding(indices, codes)
        if logits.requires_grad:
            with torch.autocast(logits.device.type, enabled=False):
                soft = (noisy / temperature).softmax(dim=-1) @ codes
            chosen = chosen + (soft - soft.detach())
        return chosen.movedim(-1, 1), indices

    def error(self, logits: Tensor, indices: Tensor, codes: Tensor) -> Tensor:
        """Cross-entropy of the codes `indices` (N, h, w), in nats a place."""
        return F.cross_entropy(logits.flatten(0, -2), indices.flatten())

    def mean(self, logits: Tensor, codes: Tensor) -> Tensor:
        """The codes expected, (N, features, h, w)."""
        return (logits.softmax(dim=-1) @ codes).movedim(-1, 1)


class SnapHead(nn.Module):
    """Gives an embedding at each place and takes the code nearest to it, with a straight-through gradient.

    Reference: van den Oord et al., arXiv:1711.00937, eq. 2 and 3.
    """

    def __init__(self, channels: int, num_codes: int, code_features: int, grid: int) -> None:
        super().__init__()

    def start(self, errors: Tensor, codes: Tensor) -> None:
        """Nothing depends on how large errors are."""

    def forward(self, features: Tensor, aims: Tensor, codes: Tensor) -> Tensor:
        """The aims themselves, (N, features, h, w)."""
        return aims

    def choose(self, aims: Tensor, codes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Codes (N, features, h, w), exactly, whose gradient goes to the aims; and their indices (N, h, w)."""
        rows = aims.detach().movedim(1, -1)
        indices = (rows @ codes.T - codes.square().sum(dim=1) / 2).argmax(dim=-1)
        return F.embedding(indices, codes).movedim(-1, 1) + (aims - aims.detach()), indices

    def error(self, aims: Tensor, indices: Tensor, codes: Tensor) -> Tensor:
        """Mean square distance from the codes `indices` (N, h, w), relative to the codes' variance."""
        return F.mse_loss(aims, F.embedding(indices, codes).movedim(-1, 1)) / codes.var(dim=0).mean()

    def mean(self, aims: Tensor, codes: Tensor) -> Tensor:
        """The aims themselves."""
        return aims


HEADS = {"gumbel": GumbelHead, "snap": SnapHead}


class CodeGan(CodePrior):
    """Draws code maps in one go.

    A latent vector is the whitened principal components of an image, drawn from a density of the training set's. Two
    linear maps of it, the image that it stands for and the codes that such images have in the mean, are where each
    place aims at; convolutions learn what linear maps cannot know.

    Args:
        stage_one: arguments of its `SliceVqVae`.
        channels: features of a place.
        latent_features: length of a latent vector.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is an input.
        mixture_components: Gaussians of the density.
        assignment: `gumbel`: logits over the codebook, drawn by Gumbel-softmax; `snap`: embeddings, and the code
            nearest to each.
    """

    def __init__(
        self,
        stage_one: dict[str, Any],
        channels: int = 64,
        latent_features: int = 128,
        num_classes: int = 0,
        use_position: bool = True,
        mixture_components: int = 12,
        assignment: str = "gumbel",
    ) -> None:
        super().__init__(stage_one)
        if assignment not in HEADS:
            raise MedsynthError(f"assignment is {assignment!r}: choose one of {', '.join(HEADS)}")
        size, features = self.stage_one.image_size, self.stage_one.code_features
        self.latent_features = latent_features
        self.condition = Conditioning(num_classes, use_position, CONDITION_FEATURES)
        self.density = GaussianMixtureDensity(mixture_components, latent_features, num_classes)
        self.components = PrincipalComponents(min(size, FINEST_SKETCH), latent_features)
        self.register_buffer("gain", torch.ones(latent_features))
        self.register_buffer("spread", torch.zeros(2, latent_features))
        self.register_buffer("mean_codes", torch.zeros(features * self.grid**2))
        self.register_buffer("slopes", torch.zeros(features * self.grid**2, latent_features))
        self.unfold = max(1, self.components.side // self.grid)
        self.generator = MapGenerator(latent_features, features + self.unfold**2, self.grid, channels)
        self.shift = started_at_zero(nn.Conv2d(channels, features, 1))
        self.head = HEADS[assignment](channels, self.stage_one.num_codes, features, self.grid)

    @torch.no_grad()
    def aims(self, count: int, seed: int) -> Tensor:
        """Where the places of `count` new maps lie before they become codes, (count, code_features, h, w)."""
        device = self.codes.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.head.mean(self(*self.latents(count)), self.codes)

    def latents(
        self, count: int, label: int | None = None, position: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New latent vectors (count, latent_features), their labels and positions, by torch's own random state."""
        latent, *conditions = self.density.sample(count, label, position)
        return latent * self.gain, *conditions

    @torch.no_grad()
    def follow(self, fake: Tensor, real: Tensor) -> None:
        """Draw latent vectors wider along components in which new images are less varied than real ones.

        Codes cannot say all of a latent vector, and what they miss is missed in the images' variety. The gain settles
        where it is as large as the ratio of deviations that is left, so half of what is missing is made up: the rest
        would cost more realism than the variety is worth.

        Args:
            fake, real: (N, 1, H, W) and (M, 1, H, W), decoded from new maps and from those of training slices; without
                any of the former, nothing changes.
        """
        if not len(fake):
            return
        squares = torch.stack([self.components.scores(images).square().mean(dim=0) for images in (fake, real)])
        self.spread.lerp_(mean_of_all(squares), SPREAD_MOMENTUM)
        of_fake, of_real = self.spread.clamp_min(1e-6)
        self.gain.lerp_((of_real / of_fake).sqrt(), GAIN_RATE).clamp_(1.0, LARGEST_GAIN)

    @property
    def codes(self) -> Tensor:
        """(num_codes, code_features)."""
        return self.stage_one.codebook.codes

    @torch.no_grad()
    def fit(self, indices: Tensor, latents: Tensor, labels: Tensor, positions: Tensor, seed: int) -> None:
        """Fit density and linear maps to the code maps (M, h, w) and latent vectors (M, latent_features) of slices.

        Args:
            labels, positions: (M,), of the slices.
            seed: of the density's start.
        """
        self.density.fit(latents, labels, positions, self.components.scale + 1e-6, seed)
        some = torch.linspace(0, len(latents) - 1, min(len(latents), MOST_TO_FIT)).long()
        latents, codes = latents[some], self.stage_one.embed(indices[some].long()).flatten(1)
        self.mean_codes.copy_(codes.mean(dim=0))
        centred = codes - self.mean_codes
        self.slopes.copy_(centred.T @ latents / len(latents))  # least squares, since the latents are white
        errors = centred - latents @ self.slopes.T
        self.head.start(errors.unflatten(1, (-1, self.grid, self.grid)), self.codes)

    def forward(self, latent: Tensor, label: Tensor | None, position: Tensor | None) -> Tensor:
        """Latent vectors (N, latent_features) -> what the head chooses codes from."""
        aims = F.linear(latent.float(), self.slopes, self.mean_codes).unflatten(1, (-1, self.grid, self.grid))
        image = self.components.images(latent)
        if image.shape[-1] != self.unfold * self.grid:
            image = F.interpolate(image, size=self.unfold * self.grid, mode="bilinear")
        sketch = torch.cat([F.pixel_unshuffle(image, self.unfold), aims], dim=1)
        features = self.generator(latent, self.condition(label, position, latent), sketch)
        return self.head(features, aims + self.shift(features).float(), self.codes)

    def choose(self, proposal: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Codes (N, features, h, w), exactly, with a gradient to the proposal; and their indices (N, h, w)."""
        return self.head.choose(proposal, self.codes, temperature)

    def draw(self, count: int, label: int | None, position: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Code maps (count, h, w), their labels and positions, by torch's own random state."""
        drawn = self.latents(count, label, position)
        parts = zip(*(part.split(TOGETHER) for part in drawn), strict=True)
        return torch.cat([self.choose(self(*part))[1] for part in parts]), *drawn[1:]


def started_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that gives 0 until it has learned something."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class CodeDiscriminator(nn.Module):
    """Judges code maps by their codes, and by the images that they decode to.

    Args:
        image_size, stride, code_features: of stage one.
        channels: features at the finest scale of each of the two critics.
        num_classes, use_position: as the generator's.

    Attributes:
        deviation: (code_features, 1, 1), of the codes, which the critic sees in these units.
    """

    def __init__(
        self,
        image_size: int,
        stride: int,
        code_features: int,
        channels: int = 64,
        num_classes: int = 0,
        use_position: bool = True,
    ) -> None:
        super().__init__()
        grid, half = image_size // stride, image_size // 2
        self.register_buffer("deviation", torch.ones(code_features, 1, 1))
        self.codes = MapDiscriminator(code_features, grid, _widths(grid, channels), num_classes, use_position)
        self.images = MapDiscriminator(4, half, _widths(half, channels // 2), num_classes, use_position)

    def features(self, codes: Tensor, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Codes (N, code_features, h, w) and images (M, 1, H, W) -> the activations of the two critics."""
        return self.codes.features(codes / self.deviation), self.images.features(self.folded(images))

    @staticmethod
    def folded(images: Tensor) -> Tensor:
        """(M, 1, H, W) -> (M, 4, H / 2, W / 2), as the critic of images takes them."""
        return F.pixel_unshuffle(images, 2)


def halvings(size: int) -> int:
    """How often `size` halves until it would fall below `SMALLEST_GRID` or be odd."""
    count = 0
    while size % 2 == 0 and size // 2 >= SMALLEST_GRID:
        size, count = size // 2, count + 1
    return count


def _widths(size: int, channels: int) -> list[int]:
    """Features at each scale: doubling, at most `WIDEST`."""
    return [min(channels * 2**level, WIDEST) for level in range(max(halvings(size), 1) + 1)]
