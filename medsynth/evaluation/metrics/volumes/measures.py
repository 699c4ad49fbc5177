"""Measure a set of synthetic volumes against real ones: their slices in each plane, whole volumes, and copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import entry
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution import estimates
from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.distribution.baseline import pca_gmm
from medsynth.evaluation.metrics.distribution.estimates import Estimate, Estimates, Reference
from medsynth.evaluation.metrics.distribution.image_set import random_indices
from medsynth.evaluation.metrics.distribution.replicates import Replicates, total
from medsynth.evaluation.metrics.distribution.set_measures import GROUPS, Clock, Group, measured, subject_rows
from medsynth.evaluation.metrics.distribution.views import Extractors, View
from medsynth.evaluation.metrics.image import ms_ssim_pairs
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.volumes.copies import Copying, look_for_copies
from medsynth.evaluation.metrics.volumes.volume_set import PLANES, VolumeSet, through_patient

LEAST_VOLUMES, LEAST_HELD_OUT = 8, 2
COMPONENTS = 16  # of whole volumes
BASELINE_COMPONENTS = 200  # of the Gaussian: all that the volumes have, where they are few
PAIRS = 100  # whose likeness is measured
OF_SLICES = [group for group in GROUPS if group.names[0] in ("fd_pca", "swd", "psd", "intensity_w1", "precision")]


@dataclass(frozen=True)
class VolumesResult:
    """What was measured.

    Attributes:
        measures: each with its floor and baseline where there is one.
        baseline: volumes drawn from a Gaussian in the principal components of the training volumes.
        copying: what registration found.
        subjects: a row for each held-out subject.
        seconds: that each part took.
    """

    measures: list[Measure]
    baseline: VolumeSet
    copying: Copying
    subjects: list[dict[str, Any]]
    seconds: dict[str, float]

    def __getitem__(self, name: str) -> Measure:
        """A measure by name."""
        return next(measure for measure in self.measures if measure.name == name)


def evaluate_volumes(
    train: VolumeSet, held_out: VolumeSet, synthetic: VolumeSet, seed: int, device: str = "cpu"
) -> VolumesResult:
    """All measures of a set of synthetic volumes, each beside its floor and beside a Gaussian in PCA of volumes.

    As many synthetic volumes count as there are training volumes, because the floor, the same measure of training
    volumes, holds only for as many.

    Args:
        train: what the generator was trained on.
        held_out: volumes of other subjects, which it never saw.
        seed: of all that is random here.
        device: that registers.

    Raises:
        MedsynthError: too few volumes, or sets that cannot be compared.
    """
    check(train, held_out, synthetic)
    clock = Clock(len(PLANES) + 3)
    with clock("baseline"):
        some = random_indices(len(synthetic), len(train), seed)
        others = random_indices(len(train), len(some), seed)
        components = min(BASELINE_COMPONENTS, len(train) - 1)
        baseline = VolumeSet.of_flat(pca_gmm(train.flat, len(some), seed, components), train.size)
    measures = []
    for plane in PLANES:
        with clock(plane):
            sets = (train, held_out, synthetic.take(some), train.take(others), baseline)
            measures += _of_slices(*sets, plane, seed)
    with clock("volumes"):
        reference, fake, ghosts = _views(train, held_out, synthetic.take(some), baseline, seed)
        real = reference.train.take(others)
        likeness = ms_ssim_pairs(np.concatenate([train.volumes, held_out.volumes]), seed, PAIRS)
        for group in _of_volumes(train.size, likeness):
            measures += measured(group, reference, fake, real, ghosts, LEAST_VOLUMES)
    with clock("copies"):
        copying = look_for_copies(train, held_out, synthetic, seed, device)
        measures += _of_copies(copying, seed)
    rows = subject_rows(reference, fake, LEAST_VOLUMES)
    return VolumesResult(measures, baseline, copying, rows, clock.seconds)


def check(train: VolumeSet, held_out: VolumeSet, synthetic: VolumeSet) -> None:
    """Refuse sets that cannot be compared."""
    for volumes, least in ((train, LEAST_VOLUMES), (synthetic, LEAST_VOLUMES), (held_out, LEAST_HELD_OUT)):
        if len(volumes) < least:
            raise MedsynthError(f"{volumes.flat.name}: {len(volumes)} volumes, and {least} are needed: give more")
    if len({volumes.size for volumes in (train, held_out, synthetic)}) > 1:
        found = ", ".join(f"{v.flat.name} {' x '.join(map(str, v.size))}" for v in (train, held_out, synthetic))
        raise MedsynthError(f"volumes differ in size ({found}): bring all sets to one grid first")
    if both := sorted(set(train.subjects) & set(held_out.subjects)):
        raise MedsynthError(f"{len(both)} subject(s) both in training and held out ({both[0]}): split by subject first")


def _of_slices(
    train: VolumeSet,
    held_out: VolumeSet,
    synthetic: VolumeSet,
    others: VolumeSet,
    baseline: VolumeSet,
    plane: str,
    seed: int,
) -> list[Measure]:
    """What is measured of slices of a plane, `name/plane`; the sums over parts, such as `swd`, without the parts."""
    where = through_patient(train, plane)
    slices = [volumes.slices(plane, where) for volumes in (train, held_out, synthetic, others, baseline)]
    extractors = Extractors(slices[0], slices[0], seed, None)
    all_train, real, fake, training, ghosts = (View(images, extractors) for images in slices)
    reference = Reference(all_train, all_train, real, None, seed)
    found = [one for group in OF_SLICES for one in measured(group, reference, fake, training, ghosts)]
    return [replace(one, name=f"{one.name}/{plane}") for one in found if not one.name.rpartition("_")[2].isdigit()]


def _views(
    train: VolumeSet, held_out: VolumeSet, synthetic: VolumeSet, baseline: VolumeSet, seed: int
) -> tuple[Reference, View, View]:
    """Whole volumes, in fewer components, two at least, where there are few volumes."""
    components = max(2, min(COMPONENTS, len(held_out) - 1, len(synthetic) - 1, (len(train) - 1) // 2))
    extractors = Extractors(train.flat, train.flat, seed, None, components)
    known, real, fake, ghosts = (View(one.flat, extractors) for one in (train, held_out, synthetic, baseline))
    return Reference(known, known, real, None, seed), fake, ghosts


def _of_volumes(size: tuple[int, ...], likeness: float) -> list[Group]:
    """What is measured of whole volumes of this size; random pairs of real ones are as alike as `likeness`."""
    ratios = tuple(f"step_ratio/{plane}" for plane in PLANES)
    functions = {
        ("fd_pca/volume",): _distance,
        ("recall/volume",): _recall,
        ("variance_ratio",): _variance_ratio,
        ("ms_ssim_pairs/volume",): partial(_likeness, size, likeness),
        ratios: partial(_step_ratios, size),
    }
    return [Group(names, function, function) for names, function in functions.items()]


def _distance(reference: Reference, fake: View) -> Estimates:
    found = estimates.pca_distance(reference, fake)["fd_pca"]
    note = f"in {reference.train.extractors.components} components of whole volumes"
    return {"fd_pca/volume": found._replace(note=note)}


def _recall(reference: Reference, fake: View) -> Estimates:
    return {"recall/volume": estimates.manifold(reference, fake)["recall"]}


def _likeness(size: tuple[int, ...], target: float, reference: Reference, fake: View) -> Estimates:
    value = ms_ssim_pairs(fake.set.images.reshape(-1, *size), reference.seed, PAIRS)
    return {"ms_ssim_pairs/volume": Estimate(value, target=target)}


def _variance_ratio(reference: Reference, fake: View) -> Estimates:
    real, found = (view.set.images.reshape(len(view), -1) for view in (reference.held_out, fake))
    spread = float(variance(found, np.arange(len(found)))(np.ones((1, len(found))))[0])
    of_real = variance(real, reference.units)
    number = reference.units.max() + 1
    value = float(of_real(np.ones((1, number)))[0])
    if value == 0:
        raise CannotMeasure("held-out volumes are all the same: they have no variance to compare with")

    def ratios(draws: NDArray) -> NDArray:
        drawn = of_real(draws)
        return spread / np.where(drawn > 1e-6 * value, drawn, np.nan)  # none where one subject is drawn alone

    return {"variance_ratio": Estimate(spread / value, ratios, number)}


def variance(rows: NDArray, units: NDArray[np.int64]) -> Replicates:
    """Of the sum over columns of the variance of rows (N, D)."""
    centred = rows - rows.mean(0)  # large volumes stay in single precision
    products, counts = (centred @ centred.T).astype(np.float64), np.bincount(units)
    within, squares = total(total(products, units).T, units), total(np.diag(products), units)

    def values(draws: NDArray) -> NDArray:
        count = draws @ counts
        return (draws @ squares - ((draws @ within) * draws).sum(1) / count) / (count - 1)

    return values


def steps(volumes: NDArray, axis: int) -> NDArray[np.float64]:
    """(N,) mean absolute difference of voxels (N, X, Y, Z) from their neighbours along an axis."""
    return np.abs(np.diff(volumes, axis=1 + axis)).mean((1, 2, 3), dtype=np.float64)


def _step_ratios(size: tuple[int, ...], reference: Reference, fake: View) -> Estimates:
    real, found = (view.set.images.reshape(-1, *size) for view in (reference.held_out, fake))
    return {f"step_ratio/{plane}": _step_ratio(real, found, axis, reference.units) for plane, axis in PLANES.items()}


def _step_ratio(real: NDArray, fake: NDArray, axis: int, units: NDArray[np.int64]) -> Estimate:
    of_fake, of_real = steps(fake, axis).mean(), resampling.mean(steps(real, axis), units)
    number = units.max() + 1
    value = float(of_real(np.ones((1, number)))[0])
    if value == 0:
        raise CannotMeasure("held-out volumes are constant: there is no step to compare with")
    return Estimate(of_fake / value, lambda draws: of_fake / of_real(draws), number)


def _of_copies(found: Copying, seed: int) -> list[Measure]:
    """After registration; the interval is over synthetic volumes."""
    number = len(found.pairs)
    interval = bootstrap_interval(found.closer, found.replicates, number, seed, entry("closer_to_train").limits)
    values = {
        "closer_to_train": (found.closer, interval, found.floor, "after registration"),
        "copies": (found.copied, None, found.copied_floor, f"{len(found.copies)} of {number} volumes"),
        "copies_control": (found.found, None, None, None),
    }
    return [
        Measure(name, value, kind.unit, kind.direction, number, kind.target, interval, floor, note=note)
        for name, (value, interval, floor, note) in values.items()
        for kind in [entry(name)]
    ]
