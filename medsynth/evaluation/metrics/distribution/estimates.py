"""Each measure of a set of images against real ones, ready for intervals, grouped by what is computed together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.distribution.class_effect import Difference, Effect, differences
from medsynth.evaluation.metrics.distribution.classifier import c2st
from medsynth.evaluation.metrics.distribution.distances import frechet_distance, kid, kth_neighbour, squared_distances
from medsynth.evaluation.metrics.distribution.image_set import ImageSet, random_indices
from medsynth.evaluation.metrics.distribution.privacy import authentic, duplicated, nearest, share_nearer
from medsynth.evaluation.metrics.distribution.replicates import Replicates, units_of
from medsynth.evaluation.metrics.distribution.separation import separation
from medsynth.evaluation.metrics.distribution.utility import Task, join, train_and_test
from medsynth.evaluation.metrics.distribution.views import View
from medsynth.evaluation.metrics.image import ms_ssim_pairs
from medsynth.evaluation.metrics.texture import gradient_ratio, intensity_w1, psd, swd

LEAST_EFFECT = 0.2  # of real classes, in standard deviations, that synthetic ones can be compared with
NEIGHBOURS = 5  # that reach to the edge of a ball of precision, recall and coverage


@dataclass(frozen=True)
class Reference:
    """Real images that a set is compared with.

    Attributes:
        all_train: every image that the generator was trained on.
        train: as many of them as are compared.
        held_out: images of other subjects.
        task: what utility is measured by; None: it is not.
        seed: of all that is random.
    """

    all_train: View
    train: View
    held_out: View
    task: Task | None
    seed: int

    @cached_property
    def ms_ssim_pairs(self) -> float:
        """The likeness of random pairs of all these images."""
        images = np.concatenate([self.train.set.images, self.held_out.set.images])
        return ms_ssim_pairs(images, self.seed)

    @cached_property
    def all_real(self) -> View:
        """Training and held-out images, as many as are compared, together."""
        return View(join(self.train.set, self.held_out.set), self.train.extractors)

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """(held-out images,) what a bootstrap draws as one."""
        return units_of(self.held_out.set.subjects)


class Estimate(NamedTuple):
    """A measured value.

    Attributes:
        replicates: how it changes with the draws of its units; None: no interval.
        units: how many there are.
        unit: if it is not the catalog's.
        note: for the reader.
        target: the best value, if it is not the catalog's.
    """

    value: float
    replicates: Replicates | None = None
    units: int = 0
    unit: str | None = None
    note: str | None = None
    target: float | None = None


Estimates = dict[str, Estimate]


def learned_distances(reference: Reference, fake: View) -> Estimates:
    """`fd_self` and `kid_self`."""
    real, units = reference.held_out.learned, reference.units
    distance = Estimate(kid(real, fake.learned), resampling.kid(real, fake.learned, units), units.max() + 1)
    return {"fd_self": _frechet(reference, fake, "learned"), "kid_self": distance}


def pca_distance(reference: Reference, fake: View) -> Estimates:
    """`fd_pca`."""
    return {"fd_pca": _frechet(reference, fake, "pca")}


def radiomics_distance(reference: Reference, fake: View) -> Estimates:
    """`fd_radiomics`."""
    return {"fd_radiomics": _frechet(reference, fake, "radiomics")}


def _frechet(reference: Reference, fake: View, features: str) -> Estimate:
    train, real, found = (getattr(view, features) for view in (reference.train, reference.held_out, fake))
    least = min(len(real), len(found))
    if least <= real.shape[1]:
        raise CannotMeasure(f"{least} images a side, needs more than there are features ({real.shape[1]})")
    variance, units = train.var(0, ddof=1).sum(), reference.units
    if variance == 0:
        raise CannotMeasure("training images are all the same: they have no variance to measure a distance by")
    value = 100 * frechet_distance(real, found) / variance
    return Estimate(value, resampling.frechet(real, found, variance, units), units.max() + 1)


def patches(reference: Reference, fake: View) -> Estimates:
    """`swd` and its parts."""
    real, found, units = reference.held_out.set.images, fake.set.images, reference.units
    values = swd(real, found, reference.seed)
    count = min(len(real), len(found))
    some = random_indices(len(real), count, reference.seed)
    replicates = resampling.swd(real[some], found, reference.seed, np.unique(units[some], return_inverse=True)[1])
    number = len(np.unique(units[some]))
    parts = {f"swd_{size}": Estimate(value, replicates[size], number) for size, value in values.items()}

    def of_all(draws: NDArray) -> NDArray:
        return np.mean([replicates[size](draws) for size in values], axis=0)

    return {"swd": Estimate(float(np.mean(list(values.values()))), of_all, number), **parts}


def spectra(reference: Reference, fake: View) -> Estimates:
    """`psd` and `psd_top_third`."""
    real, found, units = reference.held_out.set.images, fake.set.images, reference.units
    values = psd(real, found)
    replicates = resampling.psd(real, found, units)
    return {
        "psd": Estimate(values.rms, lambda draws: replicates(draws)[0], units.max() + 1),
        "psd_top_third": Estimate(values.top_third, lambda draws: replicates(draws)[1], units.max() + 1),
    }


def intensities(reference: Reference, fake: View) -> Estimates:
    """`intensity_w1` and `gradient_ratio`."""
    pair, units = (reference.held_out.set.images, fake.set.images), reference.units
    return {
        "intensity_w1": Estimate(intensity_w1(*pair), resampling.intensity_w1(*pair, units), units.max() + 1),
        "gradient_ratio": Estimate(gradient_ratio(*pair), resampling.gradient_ratio(*pair, units), units.max() + 1),
    }


def diversity(reference: Reference, fake: View) -> Estimates:
    """`ms_ssim_pairs`."""
    likeness = ms_ssim_pairs(fake.set.images, reference.seed)
    return {"ms_ssim_pairs": Estimate(likeness, target=reference.ms_ssim_pairs)}


class Balls(NamedTuple):
    """Of each held-out image, in PCA features: which fakes its ball holds, and whether it is recalled and covered."""

    holds: NDArray[np.bool_]
    recalled: NDArray[np.bool_]
    covered: NDArray[np.bool_]


def balls(reference: Reference, fake: View) -> Balls:
    """What precision, recall and coverage count, at the same number of images a side (`distribution.prdc`)."""
    count = min(len(reference.held_out), len(fake))
    real = reference.held_out.take(random_indices(len(reference.held_out), count, reference.seed))
    found = fake.pca[random_indices(len(fake), count, reference.seed)]
    real_radius = kth_neighbour(real.pca, real.set.subjects, NEIGHBOURS)
    fake_radius = kth_neighbour(found, np.arange(count), NEIGHBOURS)
    distance = squared_distances(real.pca, found)
    return Balls(distance < real_radius[:, None], (distance < fake_radius).any(1), distance.min(1) < real_radius)


def manifold(reference: Reference, fake: View) -> Estimates:
    """`precision`, `recall` and `coverage`."""
    found = balls(reference, fake)
    some = random_indices(len(reference.held_out), len(found.recalled), reference.seed)
    units = np.unique(reference.units[some], return_inverse=True)[1]
    number = units.max() + 1
    return {
        "precision": Estimate(found.holds.any(0).mean(), resampling.precision(found.holds, units), number),
        "recall": Estimate(found.recalled.mean(), resampling.mean(found.recalled, units), number),
        "coverage": Estimate(found.covered.mean(), resampling.mean(found.covered, units), number),
    }


def discrimination(reference: Reference, fake: View) -> Estimates:
    """`c2st_auc`, `c2st_f1`: training images against half of the fakes, tested on held-out ones and the other half."""
    real, test, units = reference.train.set.images, reference.held_out.set.images, reference.units
    learn, tested = np.array_split(np.random.default_rng(reference.seed).permutation(len(fake)), 2)
    found = c2st(real, fake.set.images[learn], test, fake.set.images[tested], reference.seed)
    replicates = resampling.auc(found.real_scores, found.fake_scores, units)
    return {"c2st_auc": Estimate(found.auc, replicates, units.max() + 1), "c2st_f1": Estimate(found.f1)}


def real_discrimination(reference: Reference, _: View) -> Estimates:
    """The floor of `discrimination`: half of the training subjects against half of the held-out ones, as if fake."""
    train, test = reference.train.set, reference.held_out.set
    a, b = (np.isin(images.subjects, np.unique(images.subjects)[::2]) for images in (train, test))
    folds = [
        c2st(
            train.images[a == one], test.images[b == one], train.images[a != one], test.images[b != one], reference.seed
        )
        for one in (True, False)
    ]
    values = {"c2st_auc": [fold.auc for fold in folds], "c2st_f1": [fold.f1 for fold in folds]}
    return {name: Estimate(float(np.mean(both))) for name, both in values.items()}


def copying(reference: Reference, fake: View) -> Estimates:
    """`closer_to_train`, `authenticity`, `membership_auc`."""
    train, held_out, units = reference.all_train, reference.held_out, reference.units
    to_train = nearest(fake.pca, train.pca).distance
    number = units.max() + 1
    to_unit = np.stack([nearest(fake.pca, held_out.pca[units == unit]).distance for unit in range(number)])
    counts = np.bincount(units)

    def closer(draws: NDArray) -> NDArray:
        return np.array(
            [share_nearer(to_train, to_unit[draw > 0].min(0), len(train), counts[draw > 0].sum()) for draw in draws]
        )

    genuine = authentic(fake.pca, train.pca, train.set.subjects)
    fake_units = units_of(np.arange(len(fake)))
    of_train, of_held_out = (-nearest(view.pca, fake.pca).distance for view in (train, held_out))
    membership = resampling.auc(of_held_out, of_train, units)
    return {
        "closer_to_train": Estimate(float(closer(np.ones((1, number)))[0]), closer, number),
        "authenticity": Estimate(genuine.mean(), resampling.mean(genuine, fake_units), fake_units.max() + 1),
        "membership_auc": Estimate(float(membership(np.ones((1, number)))[0]), membership, number),
    }


def real_copying(reference: Reference, _: View) -> Estimates:
    """The floor of `copying`: held-out images as if fake, half of their subjects against the other half."""
    subjects = reference.held_out.set.subjects
    half = np.isin(subjects, np.unique(subjects)[::2])
    found = []
    for one in (half, ~half):
        others = replace(reference, held_out=reference.held_out.take(np.flatnonzero(~one)))
        found.append(copying(others, reference.held_out.take(np.flatnonzero(one))))
    return {name: Estimate(float(np.mean([estimates[name].value for estimates in found]))) for name in found[0]}


def repetition(reference: Reference, fake: View) -> Estimates:
    """`duplicates`."""
    found = duplicated(fake.pca, reference.train.pca, reference.train.set.subjects)
    return {"duplicates": Estimate(float(found.mean()))}


def classes(reference: Reference, fake: View) -> Estimates:
    """`silhouette_classes` and `knn_classes`."""
    found = separation(fake.learned, fake.set.labels, fake.set.subjects)
    return {"silhouette_classes": Estimate(found.silhouette), "knn_classes": Estimate(found.knn_accuracy)}


def class_effects(real: View, fake: View) -> dict[tuple[str, str], tuple[Effect, Replicates]]:
    """How each pair of classes that both sets have differs in dark pixels, and the ratio as draws of real units."""
    units = units_of(real.set.subjects)
    of_real = differences(real.dark, real.set, units)
    of_fake = differences(fake.dark, fake.set, np.zeros(len(fake), np.int64))
    found = {}
    for pair in of_real.keys() & of_fake.keys():
        one, other = of_real[pair](np.ones(units.max() + 1)), of_fake[pair](np.ones(1))
        if np.isfinite([one.effect, other.effect]).all():  # both classes have images at common positions, which differ
            found[pair] = Effect(pair, one, other), _ratio(of_real[pair], other.effect)
    return dict(sorted(found.items()))


def _ratio(of_real: Callable[[NDArray], Difference], synthetic: float) -> Replicates:
    return lambda draws: synthetic / of_real(draws).effect


def class_effect(reference: Reference, fake: View) -> Estimates:
    """`class_effect`: of the pair of classes that differs most in all real images."""
    return _class_effect(reference.all_real, fake)


def real_class_effect(reference: Reference, others: View) -> Estimates:
    """Its floor: training images, as if synthetic, against held-out ones."""
    return _class_effect(reference.held_out, others)


def _class_effect(real: View, fake: View) -> Estimates:
    found = class_effects(real, fake)
    if not found:
        raise CannotMeasure("no two classes with 10 images each, real and synthetic, at common slice positions")
    effect, replicates = max(found.values(), key=lambda pair: abs(pair[0].real.effect))
    if not abs(effect.real.effect) >= LEAST_EFFECT:
        raise CannotMeasure(f"the real classes differ by {effect.real.effect:.2f} standard deviations: too little")
    size = f"{effect.synthetic.effect:+.2f} standard deviations, real {effect.real.effect:+.2f}"
    note = f"{' less '.join(effect.classes)}: {size}"
    return {"class_effect": Estimate(effect.ratio, replicates, units_of(real.set.subjects).max() + 1, note=note)}


def usefulness(reference: Reference, fake: View) -> Estimates:
    """`utility_tstr` and `utility_augmented`."""
    return {
        "utility_tstr": _utility(reference, fake.set),
        "utility_augmented": _utility(reference, join(reference.train.set, fake.set)),
    }


def real_usefulness(reference: Reference, others: View) -> Estimates:
    """What `usefulness` is compared with: training on real images alone."""
    return dict.fromkeys(("utility_tstr", "utility_augmented"), _utility(reference, others.set))


def _utility(reference: Reference, train: ImageSet) -> Estimate:
    task, units = reference.task, reference.units
    value, replicates = train_and_test(task, train, reference.held_out.set, reference.seed, units)
    return Estimate(value, replicates, units.max() + 1, task.unit, f"task: {task.about}; floor: trained on real images")
