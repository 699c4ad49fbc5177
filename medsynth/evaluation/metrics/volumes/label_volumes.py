"""How much of each class label maps of volumes hold, and their slices for segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.catalog import entry
from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.segmentation_utility import LabelledSet
from medsynth.evaluation.metrics.volumes.volume_set import PLANES, VolumeSet


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of the sets that are compared, (N, X, Y, Z) each, indices of the classes.

    Args:
        names: of the classes, the background's first.
    """

    train: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    synthetic: NDArray[np.uint8]
    names: Sequence[str]


def label_volumes(maps: LabelMaps, subjects: NDArray, seed: int) -> list[Measure]:
    """`label_volume/cortex`: the mean volume of a class in synthetic label maps over that in real held-out ones.

    The floor is that of the real training maps; notes give deviations over volumes. The interval is over subjects.

    Args:
        subjects: (N,), of the held-out maps.
    """
    units, found = np.unique(subjects, return_inverse=True)[1], []
    for index, name in enumerate(maps.names[1:], 1):
        shares = [(one == index).mean(axis=(1, 2, 3)) for one in (maps.train, maps.held_out, maps.synthetic)]
        found.append(_measure(f"label_volume/{name}", *shares, units, seed))
    return found


def _measure(name: str, train: NDArray, real: NDArray, fake: NDArray, units: NDArray[np.int64], seed: int) -> Measure:
    kind = entry(name)
    measure = partial(Measure, name, unit=kind.unit, direction=kind.direction, n=len(fake), target=kind.target)
    if not real.any():
        return measure(value=None, note="no held-out label map has this class")
    value, of_real, count = fake.mean() / real.mean(), resampling.mean(real, units), units.max() + 1

    def ratios(draws: NDArray) -> NDArray:
        drawn = of_real(draws)
        return fake.mean() / np.where(drawn > 0, drawn, np.nan)

    interval = bootstrap_interval(value, ratios, count, seed, kind.limits) if count > 1 else None
    spread = (f"{one.std() / one.mean():.0%}" if one.any() else "none" for one in (fake, real))
    note = "deviation {} of the mean, of real ones {}".format(*spread)
    return measure(value=value, interval=interval, floor=train.mean() / real.mean(), note=note)


def labelled_slices(volumes: VolumeSet, maps: NDArray[np.uint8], plane: str, where: NDArray[np.int64]) -> LabelledSet:
    """Slices of a plane with their label maps, as `VolumeSet.slices` takes them."""
    images, of_maps = volumes.slices(plane, where), np.moveaxis(maps, 1 + PLANES[plane], 1)[:, where]
    return LabelledSet(images.images, of_maps.reshape(images.images.shape), images.subjects.tolist())
