"""Measure a set of synthetic images against real ones that are not their counterparts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import entry
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution import estimates
from medsynth.evaluation.metrics.distribution.baseline import pca_gmm
from medsynth.evaluation.metrics.distribution.class_effect import Effect
from medsynth.evaluation.metrics.distribution.estimates import Estimate, Estimates, Reference
from medsynth.evaluation.metrics.distribution.image_set import ImageSet, random_indices
from medsynth.evaluation.metrics.distribution.privacy import Pair, all_pairs, coarse_pixels, nearest_pairs
from medsynth.evaluation.metrics.distribution.utility import choose_task
from medsynth.evaluation.metrics.distribution.views import Extractors, View
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.result import Measure

MOST_IMAGES = 2000  # a side
LEAST_IMAGES = 50  # of a set whose distribution can be measured
LEAST_FLOOR_SUBJECTS = 4  # a side

Function = Callable[[Reference, View], Estimates]


class Group(NamedTuple):
    """Measures that are computed together.

    Attributes:
        names: of the measures.
        of: computes them for any set.
        floor: computes their floor where `of` the training images would not do.
    """

    names: tuple[str, ...]
    of: Function
    floor: Function


UTILITY = Group(("utility_tstr", "utility_augmented"), estimates.usefulness, estimates.real_usefulness)
GROUPS = (
    Group(("fd_self", "kid_self"), estimates.learned_distances, estimates.learned_distances),
    Group(("fd_pca",), estimates.pca_distance, estimates.pca_distance),
    Group(("fd_radiomics",), estimates.radiomics_distance, estimates.radiomics_distance),
    Group(("swd",), estimates.patches, estimates.patches),
    Group(("psd", "psd_top_third"), estimates.spectra, estimates.spectra),
    Group(("ms_ssim_pairs",), estimates.diversity, estimates.diversity),
    Group(("intensity_w1", "gradient_ratio"), estimates.intensities, estimates.intensities),
    Group(("precision", "recall", "coverage"), estimates.manifold, estimates.manifold),
    Group(("c2st_auc", "c2st_f1"), estimates.discrimination, estimates.real_discrimination),
    Group(("closer_to_train", "authenticity", "membership_auc"), estimates.copying, estimates.real_copying),
    Group(("duplicates",), estimates.repetition, estimates.repetition),
    Group(("silhouette_classes", "knn_classes"), estimates.classes, estimates.classes),
    Group(("class_effect",), estimates.class_effect, estimates.real_class_effect),
    UTILITY,
)


@dataclass(frozen=True)
class UnpairedResult:
    """What was measured.

    Attributes:
        measures: each with its floor and baseline where there is one.
        features: "self" and "pca" -> "train", "held_out", "synthetic" -> (n, D); a kind that could not be computed is
            left out.
        indices: "train", "held_out", "synthetic" -> (n,) which images of the given sets the features are of.
        nearest_pairs: synthetic and training images that are most alike, by index into the given sets.
        copies: each synthetic image that is nearly a training image, and that one, likewise.
        subjects: a row for each held-out subject.
        network_digest: of the feature network; None if there is none.
        seed: of all that is random.
        seconds: that each part took.
        class_effects: of each pair of classes, how they differ in real and in synthetic images.
    """

    measures: list[Measure]
    features: dict[str, dict[str, NDArray[np.float64]]]
    indices: dict[str, NDArray[np.int64]]
    nearest_pairs: list[Pair]
    copies: list[Pair]
    subjects: list[dict[str, Any]]
    network_digest: str | None
    seed: int
    seconds: dict[str, float]
    class_effects: list[Effect]

    def __getitem__(self, name: str) -> Measure:
        """A measure by name."""
        return next(measure for measure in self.measures if measure.name == name)


def evaluate_unpaired(
    real_train: ImageSet,
    real_held_out: ImageSet,
    synthetic: ImageSet,
    seed: int,
    cache_dir: Path | str,
    most_images: int = MOST_IMAGES,
    utility: bool = True,
) -> UnpairedResult:
    """All measures of a set of synthetic images, each beside its floor and beside a PCA-GMM.

    As many synthetic images count as there are training images, because the floor, the same measure of training
    images, holds only for as many.

    Args:
        real_train: what the generator was trained on.
        real_held_out: images of other subjects, which it never saw.
        synthetic: its images.
        seed: of all that is random here.
        cache_dir: for the feature network.
        most_images: of each set, a random part of a larger one. Copies are looked for in all of them.
        utility: whether to train networks on the synthetic images, too.

    Raises:
        MedsynthError: sets that cannot be compared: images of different size, a subject on both sides.
    """
    _check(real_train, real_held_out, synthetic)
    count = min(len(synthetic), len(real_train), most_images)
    indices = {
        "train": random_indices(len(real_train), most_images, seed),
        "held_out": random_indices(len(real_held_out), most_images, seed),
        "synthetic": random_indices(len(synthetic), count, seed),
    }
    sets = {"train": real_train, "held_out": real_held_out, "synthetic": synthetic}
    drawn = {name: images.take(indices[name]) for name, images in sets.items()}
    extractors = Extractors(real_train, drawn["train"], seed, cache_dir)
    views = {name: View(images, extractors) for name, images in drawn.items()}
    task = choose_task(*drawn.values())
    reference = Reference(View(real_train, extractors), views["train"], views["held_out"], task, seed)
    others = views["train"].take(random_indices(len(views["train"]), count, seed))
    groups = GROUPS if utility else [group for group in GROUPS if group is not UTILITY]
    clock = Clock(len(groups) + 3)
    with clock("network"):
        network = attempt(lambda: extractors.network)
    with clock("baseline"):
        baseline = attempt(lambda: View(pca_gmm(drawn["train"], count, seed), extractors))
    measures = []
    for group in groups:
        with clock(group.names[0]):
            measures += measured(group, reference, views["synthetic"], others, baseline)
    with clock("nearest_pairs"):
        pairs, copies = _nearest_pairs(reference, View(synthetic, extractors)), _find_copies(real_train, synthetic)
        modelled = None if isinstance(baseline, CannotMeasure) else baseline.set
        measures.append(_share_of_copies(copies, real_train, len(synthetic), drawn["held_out"], modelled))
    return UnpairedResult(
        measures=measures,
        features=_features(views),
        indices=indices,
        nearest_pairs=pairs,
        copies=[] if isinstance(copies, CannotMeasure) else copies,
        subjects=subject_rows(reference, views["synthetic"]),
        network_digest=None if isinstance(network, CannotMeasure) else network.digest,
        seed=seed,
        seconds=clock.seconds,
        class_effects=_class_effects(reference, views["synthetic"]),
    )


class Clock:
    """Seconds of each part, and a progress bar over them."""

    def __init__(self, parts: int) -> None:
        self.seconds: dict[str, float] = {}
        self.bar = tqdm(total=parts, desc="measuring", leave=False)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        self.bar.set_postfix_str(part)
        yield
        self.seconds[part] = time.perf_counter() - start
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()


def _check(train: ImageSet, held_out: ImageSet, synthetic: ImageSet) -> None:
    sizes = {images.name: images.images.shape[1:] for images in (train, held_out, synthetic)}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in sizes.items())
        raise MedsynthError(f"images differ in size ({found}): bring all sets to one size and spacing first")
    both = sorted(set(train.subjects) & set(held_out.subjects))
    if both:
        raise MedsynthError(
            f"{len(both)} subject(s) in both {train.name} and {held_out.name} ({both[0]}): split by subject first"
        )


def attempt(function: Callable[[], Any]) -> Any:
    """What a function returns, or the reason why it cannot measure."""
    try:
        return function()
    except CannotMeasure as reason:
        return reason


def measured(
    group: Group,
    reference: Reference,
    fake: View,
    others: View,
    baseline: View | CannotMeasure,
    least: int = LEAST_IMAGES,
) -> list[Measure]:
    """A group's measures of the synthetic images, with intervals, floors and baselines.

    Args:
        others: training images, as many as there are synthetic ones: the floor is theirs.
        least: synthetic images that are needed.
    """
    found = attempt(lambda: _of_enough(group.of, reference, fake, least))
    if isinstance(found, CannotMeasure):
        kinds = [(name, entry(name)) for name in group.names]
        return [Measure(name, None, kind.unit, kind.direction, len(fake), note=str(found)) for name, kind in kinds]
    floors = attempt(lambda: _floor(group, reference, others))
    model = baseline if isinstance(baseline, CannotMeasure) else attempt(lambda: group.of(reference, baseline))
    return [
        Measure(
            name,
            float(estimate.value),
            entry(name).unit if estimate.unit is None else estimate.unit,
            entry(name).direction,
            len(fake),
            target=entry(name).target if estimate.target is None else estimate.target,
            interval=_interval(name, estimate, reference.seed),
            floor=_value(floors, name),
            baseline=_value(model, name),
            note=estimate.note,
            no_floor=str(floors) if isinstance(floors, CannotMeasure) else None,
        )
        for name, estimate in found.items()
    ]


def _interval(name: str, estimate: Estimate, seed: int) -> tuple[float, float] | None:
    if estimate.replicates is None or estimate.units < 2:
        return None
    return bootstrap_interval(estimate.value, estimate.replicates, estimate.units, seed, entry(name).limits)


def _value(found: Estimates | CannotMeasure, name: str) -> float | None:
    return None if isinstance(found, CannotMeasure) or name not in found else float(found[name].value)


def _of_enough(function: Function, reference: Reference, fake: View, least: int) -> Estimates:
    if len(fake) < least:
        raise CannotMeasure(f"{len(fake)} synthetic images, needs {least} or more")
    subjects = reference.held_out.set.subject_count
    if subjects < 2:
        raise CannotMeasure("held-out images of 1 subject only: give more subjects to compare with")
    return function(reference, fake)


def _floor(group: Group, reference: Reference, others: View) -> Estimates:
    subjects = [view.set.subject_count for view in (others, reference.held_out)]
    if min(subjects) < LEAST_FLOOR_SUBJECTS:
        raise CannotMeasure(
            f"{subjects[0]} training and {subjects[1]} held-out subjects, needs {LEAST_FLOOR_SUBJECTS} of each: give "
            "more, or hold out those of validation too (--split both)"
        )
    return group.floor(reference, others)


def _nearest_pairs(reference: Reference, fake: View) -> list[Pair]:
    train = reference.all_train
    found = attempt(lambda: nearest_pairs(fake.pca, train.pca, train.set.subjects))
    return [] if isinstance(found, CannotMeasure) else found


def _find_copies(train: ImageSet, fake: ImageSet) -> list[Pair] | CannotMeasure:
    found = attempt(lambda: all_pairs(coarse_pixels(fake.images), coarse_pixels(train.images), train.subjects))
    return found if isinstance(found, CannotMeasure) else [pair for pair in found if pair.is_copy]


def _share_of_copies(
    copies: list[Pair] | CannotMeasure, train: ImageSet, count: int, held_out: ImageSet, baseline: ImageSet | None
) -> Measure:
    """`copies`, of any number of images; its floor is of the held-out ones."""
    measure = partial(Measure, "copies", unit=entry("copies").unit, direction=entry("copies").direction, n=count)
    if isinstance(copies, CannotMeasure):
        return measure(None, note=str(copies))
    floor, model = (None if one is None else len(_find_copies(train, one)) / len(one) for one in (held_out, baseline))
    return measure(len(copies) / count, floor=floor, baseline=model, note=f"{len(copies)} of {count} images")


def _class_effects(reference: Reference, fake: View) -> list[Effect]:
    found = attempt(lambda: estimates.class_effects(reference.all_real, fake))
    return [] if isinstance(found, CannotMeasure) else [effect for effect, _ in found.values()]


def _features(views: dict[str, View]) -> dict[str, dict[str, NDArray[np.float64]]]:
    found = {
        "self": attempt(lambda: {name: view.learned for name, view in views.items()}),
        "pca": attempt(lambda: {name: view.pca for name, view in views.items()}),
    }
    return {kind: features for kind, features in found.items() if not isinstance(features, CannotMeasure)}


def subject_rows(reference: Reference, fake: View, least: int = LEAST_IMAGES) -> list[dict[str, Any]]:
    """Of each held-out subject, how many images it has and what share of them the synthetic ones recall and cover."""
    found = attempt(lambda: _of_enough(estimates.balls, reference, fake, least))
    if isinstance(found, CannotMeasure):
        return []
    some = random_indices(len(reference.held_out), len(found.recalled), reference.seed)
    real = reference.held_out.set.take(some)
    rows = []
    for subject in np.unique(real.subjects):
        own = real.subjects == subject
        rows.append(
            {
                "subject": str(subject),
                "label": str(real.labels[own][0]),
                "images": int(own.sum()),
                "recall": float(found.recalled[own].mean()),
                "coverage": float(found.covered[own].mean()),
            }
        )
    return rows
