"""Whether synthetic volumes are training volumes that were moved: compared after registration, mirrored too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medsynth.evaluation.metrics.distribution.image_set import random_indices
from medsynth.evaluation.metrics.distribution.privacy import Pair, share_nearer
from medsynth.evaluation.metrics.distribution.replicates import Replicates
from medsynth.evaluation.metrics.texture import FOREGROUND
from medsynth.evaluation.metrics.volumes.registration import correlation, detail_distance, disguised, fit
from medsynth.evaluation.metrics.volumes.volume_set import VolumeSet

COARSE, FINE = 28, 64  # longest sides of the grids that are registered and compared on: seconds a volume on any grid
CANDIDATES = 3  # the references most alike in a common pose, which are registered
MOST, CONTROLS = 40, 8  # volumes of a set, and training volumes in disguise, that are looked at
CHUNK = 4  # volumes at a time
COPY = 0.85  # of the usual distance between different persons: copies in disguise are nearer, other persons farther

Array = NDArray[np.float64]


class Copying(NamedTuple):
    """What was found, and what it is to be read beside.

    Attributes:
        closer: share nearer to a training volume than to a held-out one, as `closer_to_train`.
        replicates: of it, of draws of the synthetic volumes.
        floor: the same of held-out volumes, each against the others.
        pairs: each synthetic volume and the training volume nearest to it, nearest first.
        copied: share of synthetic volumes that are nearly a training volume.
        copied_floor: the same of held-out ones.
        found: share of training volumes in disguise that are found to be copies of themselves.
    """

    closer: float
    replicates: Replicates
    floor: float
    pairs: list[Pair]
    copied: float
    copied_floor: float
    found: float

    @property
    def copies(self) -> list[Pair]:
        """The pairs that are nearly the same."""
        return [pair for pair in self.pairs if pair.distance <= COPY * pair.usual]


class Nearest(NamedTuple):
    """(N,) the distance of each volume to the nearest reference, and which one that is."""

    distance: Array
    index: NDArray[np.int64]


class Posed:
    """Volumes in the pose of a template, on a coarse and on a finer grid.

    Args:
        volumes: (N, 1, X, Y, Z) in [0, 1].
        template: (1, 1, X, Y, Z).
    """

    def __init__(self, volumes: Tensor, template: Tensor) -> None:
        coarse, fine = [], []
        for some in volumes.split(CHUNK):
            moved = fit(shrunk(some, COARSE), shrunk(template, COARSE))
            coarse.append(moved(shrunk(some, COARSE))[0])
            fine.append(moved(shrunk(some, FINE))[0])
        self.coarse, self.fine = torch.cat(coarse), torch.cat(fine)
        self.template = shrunk(template, COARSE)

    def __len__(self) -> int:
        return len(self.coarse)

    def nearest(self, references: Posed, itself: bool = False) -> Nearest:
        """The nearest references after registration.

        Args:
            itself: whether these are the references, so that each must find another.
        """
        likeness, mirrored = self._likeness(references)
        if itself:
            likeness.fill_diagonal_(-torch.inf)
        chosen = likeness.topk(min(CANDIDATES, len(references) - itself), dim=1).indices
        found = [
            self._registered(references, rows, chosen[rows], mirrored[rows].gather(1, chosen[rows]))
            for rows in torch.arange(len(self)).split(CHUNK)
        ]
        distance, which = torch.cat(found).min(dim=1)
        return Nearest(distance.double().cpu().numpy(), chosen.gather(1, which[:, None])[:, 0].cpu().numpy())

    def _likeness(self, references: Posed) -> tuple[Tensor, Tensor]:
        """(N, M) correlations in the common pose, and whether they are larger mirrored."""
        where = self.template > FOREGROUND
        pairs = torch.stack(
            [
                torch.stack([correlation(one[None], references.coarse, where) for one in volumes])
                for volumes in (self.coarse, self.coarse.flip(2))
            ]
        )
        return pairs.amax(dim=0), pairs[1] > pairs[0]

    def _registered(self, references: Posed, rows: Tensor, chosen: Tensor, mirrored: Tensor) -> Tensor:
        """Distances (n, candidates) of these volumes to those chosen for each."""
        count, flat = chosen.shape[1], chosen.flatten()
        flipped = mirrored.flatten()[:, None, None, None, None]
        coarse, fine = (
            torch.where(flipped, some.flip(2), some)
            for some in (grid[rows].repeat_interleave(count, dim=0) for grid in (self.coarse, self.fine))
        )
        moved, inside = fit(coarse, references.coarse[flat], elastic=True)(fine)
        return detail_distance(moved, references.fine[flat], inside).view(-1, count)


def look_for_copies(
    train: VolumeSet, held_out: VolumeSet, synthetic: VolumeSet, seed: int, device: str = "cpu"
) -> Copying:
    """Register synthetic volumes to training and to held-out ones.

    Args:
        seed: of those that are looked at, at most `MOST` of a set but all training volumes, and of the disguises.
        device: that registers.
    """
    chosen = random_indices(len(synthetic), MOST, seed)
    some = random_indices(len(held_out), MOST, seed)
    disguises = random_indices(len(train), CONTROLS, seed)
    template = _tensor(train.volumes.mean(0, keepdims=True), device)
    known, others, fakes = (
        Posed(_tensor(volumes, device), template)
        for volumes in (train.volumes, held_out.volumes[some], synthetic.volumes[chosen])
    )
    controls = Posed(disguised(_tensor(train.volumes[disguises], device), seed), template)
    to_train, to_held_out = fakes.nearest(known), fakes.nearest(others)
    real_to_train, real_to_real = others.nearest(known), others.nearest(others, itself=True)
    usual = float(np.median(real_to_train.distance))
    control = controls.nearest(known)
    order = np.argsort(to_train.distance, kind="stable")
    sizes, own = (len(known), len(others)), np.arange(len(fakes))

    def closer(draws: Array) -> Array:
        drawn = (np.repeat(own, draw.astype(int)) for draw in draws)
        return np.array([share_nearer(to_train.distance[d], to_held_out.distance[d], *sizes) for d in drawn])

    return Copying(
        float(closer(np.ones((1, len(own))))[0]),
        closer,
        share_nearer(real_to_train.distance, real_to_real.distance, len(known), len(others) - 1),
        [Pair(int(chosen[i]), int(to_train.index[i]), float(to_train.distance[i]), usual) for i in order],
        float((to_train.distance <= COPY * usual).mean()),
        float((real_to_train.distance <= COPY * usual).mean()),
        float(((control.distance <= COPY * usual) & (control.index == disguises)).mean()),
    )


def shrunk(volumes: Tensor, longest: int) -> Tensor:
    """Means over blocks of whole voxels, so that no side is much longer."""
    block = max(1, round(max(volumes.shape[2:]) / longest))
    return F.avg_pool3d(volumes, block)


def _tensor(volumes: NDArray[np.float32], device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volumes))[:, None].to(device)
