"""The volume generator: rectified flows over wavelet bands, from a coarse volume to fine detail."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.models.flow.label_maps import at_latents, channels_of, one_hot
from medsynth.models.flow.learning import DROPPED, flow_loss, has_no_map
from medsynth.models.flow.network import LatentFlow, unknown
from medsynth.models.flow.solver import SOLVER_STEPS
from medsynth.models.volumes.augmentation import NUMBERS
from medsynth.models.volumes.wavelet import bands, volumes

MOST_PLACES = 4096  # of the coarsest bands
COARSE_BANDS, DETAIL_BANDS, COORDINATES = 8, 7, 3
Pyramid = list[tuple[Tensor, Tensor | None]]
"""Of each level, the coarsest first: bands of N volumes, and what the level is given, None for nothing."""


class VolumeFlow(nn.Module):
    """Draws a coarse volume, then, level by level, the detail that doubles the number of its voxels along each axis.

    Every level is a rectified flow. The coarsest is over all eight wavelet bands of the coarse volume, and knows its
    places. The others are over the seven bands of detail, are given the coarser volume and where they are in it, and
    look at their surroundings only: they learn from crops, and volumes may be as large as one likes. All may be told
    label maps, each at its own resolution.

    Args:
        size: voxels along each axis of the finest volumes.
        channels: of the coarsest level, as `LatentFlow` takes them.
        detail_channels: of the others.
        dropout, num_classes, covariates: as `LatentFlow` takes them.
        segmentation_classes: classes of the label maps that are a condition, the background among them; 0: none are.
            It draws without them too.

    Attributes:
        levels: `LatentFlow`s, the coarsest first.
        grids: places along each axis of the bands of each level.

    Reference: Ho et al., cascaded diffusion, arXiv:2106.15282; Guth et al., wavelet score-based models,
    arXiv:2208.05003; Friedrich et al., WDM, arXiv:2402.19043.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int],
        detail_channels: Sequence[int],
        dropout: float,
        num_classes: int,
        covariates: Sequence[str],
        segmentation_classes: int = 0,  # models of earlier versions have none
    ) -> None:
        super().__init__()
        self.grids, self.segmentation_classes = band_grids(size), segmentation_classes
        maps = channels_of(segmentation_classes, axes=3)
        facts = {"num_classes": num_classes, "use_position": False, "covariates": covariates}
        facts |= {"augmentation_numbers": NUMBERS, "map_channels": maps}
        coarse = LatentFlow(COARSE_BANDS, self.grids[0], channels, dropout, **facts, given_channels=maps)
        given = {"given_channels": 1 + COORDINATES + maps, "is_local": True}
        details = (
            LatentFlow(DETAIL_BANDS, grid, detail_channels, dropout, **facts, **given) for grid in self.grids[1:]
        )
        self.levels = nn.ModuleList([coarse, *details])

    def forward(self, images: Tensor, *conditions: Tensor) -> Tensor:
        """Volumes (N, 1, *size) -> the same, from their bands: wavelets lose nothing."""
        (coarse, _), *finer = self.pyramid(images)
        image = volumes(coarse)
        for detail, _ in finer:
            image = volumes(torch.cat([image, detail], dim=1))
        return image

    @property
    def is_fitted(self) -> Tensor:
        """Whether it knows how bands are distributed."""
        return self.levels[0].is_fitted

    @property
    def conditions(self) -> nn.Module:
        """The classes and covariates of the training set."""
        return self.levels[0].conditions

    def pyramid(self, images: Tensor, segmentation: Tensor | None = None) -> Pyramid:
        """Volumes (N, 1, *size), and their label maps if they are known -> bands, and what each level is given."""
        found, maps = [], self.at_levels(segmentation)
        for own in reversed(maps):
            parts = bands(images)
            images = parts[:, :1]
            found.append((parts[:, 1:], given(images, own)))
        found[-1] = (parts, maps[0])
        return found[::-1]

    def at_levels(self, segmentation: Tensor | None) -> list[Tensor | None]:
        """What each level is told of label maps (N, 1, *size), indices of the classes, see `at_latents`; None of None.

        A part of a place is a voxel of the volume that the level makes.
        """
        if segmentation is None:
            return [None] * len(self.levels)
        shares = one_hot(segmentation, self.segmentation_classes)
        return [at_latents(shares, 2**steps) for steps in range(len(self.levels), 0, -1)]

    def cropped(self, pyramid: Pyramid) -> Pyramid:
        """A pyramid whose finer levels are cut to a random box of the coarsest level's grid."""
        return [_cropped(*parts, self.grids[0]) if index else parts for index, parts in enumerate(pyramid)]

    def losses(
        self, pyramids: Sequence[Pyramid], augmentation: Tensor, label: Tensor, position: Tensor, covariates: Tensor
    ) -> dict[str, Tensor]:
        """Mean `flow_loss` of each level, whose conditions and maps are hidden now and then, by the level's name.

        They are hidden as often as in `training_loss`, from all levels at once.

        Args:
            pyramids: of N volumes, one each; levels may be cropped.
            augmentation: (N, NUMBERS).
            label, position, covariates: (N,), (N,) and (N, K).
        """
        chance = torch.rand(len(label), device=label.device)
        facts, found = unknown(chance < DROPPED, label, position, covariates), {}
        for index, (level, parts) in enumerate(zip(self.levels, zip(*pyramids, strict=True), strict=True)):
            latents = level.normalize(torch.cat([one for one, _ in parts]))
            beside = None if parts[0][1] is None else torch.cat([other for _, other in parts])
            beside = level.without_maps(beside, has_no_map(chance))
            condition = level.embed(*facts, latents)
            found[f"level_{index}"] = flow_loss(level, latents, condition, augmentation, given=beside).mean()
        return found

    @torch.no_grad()
    def fit(self, images: Tensor, labels: Tensor, positions: Tensor, covariates: Tensor) -> None:
        """Learn how the bands of a training set are distributed, and its conditions; see `LatentFlow.fit`.

        Bands are scaled by the root of their deviation: weak ones stay weaker, and come out of the noise later.

        Args:
            images: (M, 1, *size), some or all of them.
        """
        for level, (latents, _) in zip(self.levels, self.pyramid(images), strict=True):
            level.fit(latents, labels, positions, covariates)
            level.deviation.copy_((level.deviation * level.deviation.max()).sqrt())

    @torch.no_grad()
    def draw(
        self,
        noise: Sequence[Tensor],
        conditions: Sequence[Tensor],
        steps: int = SOLVER_STEPS,
        guidance: float = 1.0,
        known: tuple[Tensor, Tensor] | None = None,
        segmentation: Tensor | None = None,
    ) -> Tensor:
        """Noise of each level to volumes (N, 1, *size) in [-1, 1].

        Args:
            noise: as `noise` or `invert` gives it.
            conditions: labels (N,), positions (N,) and covariates (N, K).
            steps, guidance: as `LatentFlow.travel` takes them; finer levels take half the steps.
            known: volumes, and (N, 1, *size), true where they are to come out as they are.
            segmentation: label maps (N, 1, *size), indices of the classes; None: none.
        """
        image, kept = None, [None] * len(noise) if known is None else self._known(*known)
        for level, start, own, maps in zip(self.levels, noise, kept, self.at_levels(segmentation), strict=True):
            if image is None:
                image = volumes(level.travel(start, *conditions, steps, guidance, given=maps, known=own))
            else:
                beside = given(image, maps)
                detail = level.travel(start, *conditions, _fewer(steps), guidance, given=beside, known=own)
                image = volumes(torch.cat([image, detail], dim=1))
        return image.clamp(-1, 1)

    @torch.no_grad()
    def invert(self, images: Tensor, conditions: Sequence[Tensor], steps: int = SOLVER_STEPS) -> list[Tensor]:
        """The noise of each level that volumes (N, 1, *size) come from under their conditions, see `draw`."""
        return [
            level.travel(latents, *conditions, _fewer(steps) if index else steps, backwards=True, given=beside)
            for index, (level, (latents, beside)) in enumerate(zip(self.levels, self.pyramid(images), strict=True))
        ]

    def _known(self, images: Tensor, where: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each level, the bands, and (N, 1, ...), true where all voxels below a place are known."""
        found, unknown = [], (~where).float()
        for latents, _ in reversed(self.pyramid(images)):
            unknown = F.max_pool3d(unknown, 2)
            found.append((latents, unknown == 0))
        return found[::-1]

    def strengths(self) -> list[Tensor]:
        """Of each level, the deviations (C,) of its scaled bands."""
        return [(level.deviation / level.deviation.max()).flatten() for level in self.levels]

    def noise(self, count: int, random: torch.Generator) -> list[Tensor]:
        """Of each level, (count, ...), on the device of the network."""
        device = self.levels[0].mean.device
        return [torch.randn(count, *level.shape, generator=random).to(device) for level in self.levels]

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
        """Draw new volumes, see `LatentFlow.sample`; one at a time, so that a large one has the memory."""
        random = torch.Generator().manual_seed(seed)
        conditions = self.conditions.sample(count, label, position, random, covariates)
        one_by_one = zip(*(fact.split(1) for fact in conditions), strict=True)
        drawn = [self.draw(self.noise(1, random), one, steps, guidance) for one in one_by_one]
        return torch.cat(drawn), *conditions


def _cropped(latents: Tensor, beside: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same random box of both, (1, C, X, Y, Z) each."""
    starts = [int(torch.randint(length - side + 1, ())) for length, side in zip(latents.shape[2:], sides, strict=True)]
    x, y, z = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return latents[:, :, x, y, z], beside[:, :, x, y, z]


def _fewer(steps: int) -> int:
    """Of the solver, for a finer level: what is coarser tells most of the detail."""
    return max(1, steps // 2)


def given(coarser: Tensor, maps: Tensor | None = None) -> Tensor:
    """A coarser volume (N, 1, X, Y, Z), where its voxels lie, from -1 to 1, and what is told of label maps, if there
    are any -> (N, 4 or more, X, Y, Z)."""
    axes = [torch.linspace(-1, 1, length, device=coarser.device, dtype=coarser.dtype) for length in coarser.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(coarser), -1, -1, -1, -1)
    return torch.cat([coarser, places] if maps is None else [coarser, places, maps], dim=1)


def band_grids(size: Sequence[int]) -> list[tuple[int, ...]]:
    """Places along each axis of the bands of each level, the coarsest first.

    Raises:
        MedsynthError: the volumes cannot be halved as often as needed.
    """
    grids = []
    while not grids or math.prod(grids[0]) > MOST_PLACES:
        grids.insert(0, tuple(length // 2 ** (len(grids) + 1) for length in size))
    step = 2 ** (len(grids) + 1)
    if any(length % step for length in size):
        near = [max(step, round(length / step) * step) for length in size]
        raise MedsynthError(f"size {list(size)}: each must be a multiple of {step}: set --size '{near}'")
    return grids
