"""Verdicts on fidelity, diversity, utility and privacy, against the floor and the PCA-GMM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medsynth.evaluation.metrics.catalog import base_name
from medsynth.evaluation.metrics.result import Measure

DISTANCES = ("fd_self", "kid_self", "fd_pca", "fd_radiomics", "fd_inception", "swd", "intensity_w1", "precision")
FIDELITY = (*DISTANCES, "psd", "gradient_ratio", "step_ratio", "c2st_auc")  # a distance can prefer ghosts, these don't
DIVERSITY = ("recall", "coverage", "ms_ssim_pairs", "variance_ratio", "duplicates")
AS_REAL, NEAR_REAL = 1.5, 4.0  # times the floor up to which a measure is at it, and near it
LEAST_GAP = {
    "fd_self": 1.0, "kid_self": 15.0, "fd_pca": 1.0, "fd_radiomics": 2.0, "fd_inception": 1.0, "swd": 4.0, "psd": 0.15,
    "intensity_w1": 2.0, "gradient_ratio": 0.02, "precision": 0.12, "recall": 0.1, "coverage": 0.15,
    "ms_ssim_pairs": 0.006, "c2st_auc": 0.1, "c2st_f1": 0.1, "duplicates": 0.01, "psd_top_third": 0.2,
    "closer_to_train": 0.1, "authenticity": 0.15, "membership_auc": 0.05, "copies": 0.01, "class_effect": 0.2,
    "step_ratio": 0.02, "variance_ratio": 0.1, "copies_control": 0.1,
}  # fmt: skip
"""The smallest distance from ideal that counts: floors of large sets may be smaller than what is visible."""

TEXTURE = {
    "gradient_ratio": "gradients are {:.2f} of real ones",
    "psd": "the power spectrum is {:.1f} dB off",
    "psd_top_third": "its finest third {:+.1f} dB",
}
SHARP = (0.95, 1.05)  # gradient ratios of good 64-pixel models and of real images; a blur of half a pixel has .79
FINE_DB = 0.6  # that a good 64-pixel model's spectrum may be off; real images have .2, a blur of half a pixel 3.3
TOLD_APART = 0.9  # AUC: real images of other subjects have .5, good 64-pixel models up to .85, a blur 1

BASELINE = "a PCA-GMM (a model fitted in seconds)"
SIGNS = {"good": "✓", "mixed": "~", "poor": "✕", "unknown": "?"}
MEASURES_OF_COPIES = ("closer_to_train", "authenticity", "membership_auc")
COPIES_NAMED = 20
LEAST_FOUND = 0.75  # of training volumes in disguise, for a search for copies that can be relied on
SUSPICIOUS, COPIED = 0.08, 0.3  # how far beyond its floor a measure of copying must be
NO_PROOF = (
    "Passing these tests is no proof of anonymity: they look for copies in some features only, and patients can be "
    "recognized by others. Treat the images under the rules of the scans they came from."
)


@dataclass(frozen=True)
class Verdict:
    """A grade in words.

    Args:
        topic: fidelity, diversity, utility or privacy.
        grade: `good`, `mixed`, `poor` or `unknown`.
        headline: the verdict.
        reasons: sentences with the numbers behind it.
    """

    topic: str
    grade: str
    headline: str
    reasons: Sequence[str]

    @property
    def sign(self) -> str:
        """A sign of the grade, for readers who cannot see its colour."""
        return SIGNS[self.grade]


@dataclass(frozen=True)
class Standing:
    """A measure's distance from ideal beside that of real images and of the PCA-GMM.

    Args:
        times: the distance over that of real images of other subjects; None without a floor.
        baseline_times: the same of the PCA-GMM.
    """

    measure: Measure
    times: float | None
    baseline_times: float | None

    @property
    def loses(self) -> bool:
        """Whether it is worse than the PCA-GMM and beyond the range of real images."""
        return (
            self.baseline_times is not None
            and self.times is not None
            and self.times > AS_REAL
            and self.times > self.baseline_times
        )

    def words(self) -> str:
        """Its name, value and floor."""
        measure = self.measure
        unit = f" {measure.unit}" if measure.unit else ""
        floor = "" if measure.floor is None else f", floor {figures(measure.floor)}"
        baseline = "" if measure.baseline is None else f", PCA-GMM {figures(measure.baseline)}"
        return f"{measure.name} {figures(measure.value)}{unit}{floor}{baseline}"


def figures(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def gap(measure: Measure, value: float) -> float | None:
    """How far a value of this measure is from the best; None where no value is best."""
    ideal = {"lower": 0.0, "higher": 1.0, "near": measure.target}[measure.direction]
    if ideal is None:
        return None
    return max(value, 0.0) if measure.direction == "lower" else abs(value - ideal)


def standing(measure: Measure) -> Standing:
    """A measure's distance from ideal, in units of the floor's."""
    if measure.value is None or measure.floor is None or (own := gap(measure, measure.value)) is None:
        return Standing(measure, None, None)
    unit = max(gap(measure, measure.floor), LEAST_GAP.get(base_name(measure.name), 1e-9))
    baseline = None if measure.baseline is None else gap(measure, measure.baseline) / unit
    return Standing(measure, own / unit, baseline)


def verdicts(measures: Sequence[Measure], copies: Sequence[str] = ()) -> list[Verdict]:
    """Fidelity, diversity, utility and privacy.

    Args:
        measures: of images; or of volumes, where those of slices are named `name/plane`.
        copies: synthetic images that are nearly training images, in words.
    """
    by_name = {measure.name: measure for measure in measures}
    judged = fidelity(by_name)
    return [
        judged,
        _likeness("Diversity", by_name, DIVERSITY, _variety(by_name)),
        utility(by_name),
        privacy(by_name, None if judged.grade == "unknown" else judged.grade in ("good", "mixed"), copies),
    ]


def fidelity(by_name: dict[str, Measure]) -> Verdict:
    """Whether images look like real ones; good distances don't excuse softness."""
    faults = _faults(by_name)
    found = _likeness("Fidelity", by_name, FIDELITY, [*faults.values(), *_brightness(by_name)])
    if not faults or _likeness("Fidelity", by_name, DISTANCES, []).grade != "good":
        return found
    return replace(found, grade="mixed", headline=f"Good distances, but {' and '.join(faults)}.")


def _likeness(topic: str, by_name: dict[str, Measure], names: Sequence[str], seen: Sequence[str]) -> Verdict:
    """How similar images are to real ones, from all measures of a topic together.

    Args:
        seen: sentences on what is wrong.
    """
    standings = [standing(one) for name in names for one in by_name.values() if base_name(one.name) == name]
    known = [one for one in standings if one.times is not None]
    missing = [f"{s.measure.name}: {s.measure.remark or 'not computed'}" for s in standings if s.times is None]
    if len(known) < 2:
        return _unjudged(topic, [one.measure for one in standings if one.times is None])
    losing = [one for one in known if one.loses]
    compared = [one for one in known if one.baseline_times is not None]
    far = sorted((one for one in known if one.times > NEAR_REAL), key=lambda one: -one.times)
    near = [one for one in known if AS_REAL < one.times <= NEAR_REAL]
    reasons = list(seen)
    if losing:
        names = ", ".join(one.measure.name for one in losing)
        reasons.append(f"Worse than {BASELINE} in {len(losing)} of {len(compared)} measures: {names}.")
    elif compared:
        reasons.append(f"Not worse than {BASELINE} in any of {len(compared)} measures.")
    reasons.append(
        f"Of {len(known)} measures, {len(known) - len(far) - len(near)} are at the floor, where real images of other "
        f"subjects are (up to {AS_REAL:g} times it), {len(near)} near it, {len(far)} far (over {NEAR_REAL:g} times)."
    )
    if far:
        reasons.append("Farthest: " + "; ".join(one.words() for one in far[:4]) + ".")
    if missing:
        reasons.append("Not computed: " + "; ".join(missing) + ".")
    caught = ", ".join(one.measure.name for one in (far or losing or near))
    if len(losing) > len(compared) / 2:
        grade, headline = "poor", f"Worse than a PCA-GMM in {len(losing)} of {len(compared)} measures."
    elif len(far) > len(known) / 2:
        grade, headline = "poor", f"Far from real images in {len(far)} of {len(known)} measures."
    elif far or losing or len(near) > len(known) / 3:
        grade, headline = "mixed", f"{_HALF[topic]} Unlike real images in {caught}."
    else:
        grade, headline = "good", _PRAISE[topic]
    return Verdict(topic, grade, headline, reasons)


def _unjudged(topic: str, measures: Sequence[Measure]) -> Verdict:
    """For measures without a value or without a floor: why most of them are, and why each is."""
    names: dict[str, list[str]] = {}
    for one in measures:
        names.setdefault(one.no_floor or one.note or "not computed", []).append(one.name)
    most = max(names, key=lambda reason: len(names[reason]), default="too few measures were computed")
    reasons = [f"{', '.join(some)}: {reason}" for reason, some in names.items()]
    return Verdict(topic, "unknown", f"Cannot be judged: {most}.", reasons)


_PRAISE = {
    "Fidelity": "Close to real images of other subjects, by these measures.",
    "Diversity": "As varied as real images, by these measures.",
}
_HALF = {"Fidelity": "Partly realistic.", "Diversity": "Partly varied."}


def _off(by_name: dict[str, Measure], name: str, times: float = AS_REAL) -> Measure | None:
    """The measure, if it is known and that many times the floor."""
    one = standing(by_name[name]) if name in by_name else None
    return one.measure if one and one.times is not None and one.times > times else None


def _faults(by_name: dict[str, Measure]) -> dict[str, str]:
    """What a distance may not see, such as `soft`, each with a sentence."""
    faults: dict[str, str] = {}
    for part in dict.fromkeys(name.partition("/")[2] for name in by_name):
        of_part = {base_name(name): one for name, one in by_name.items() if name.partition("/")[2] == part}
        for fault, said in _faults_of(of_part).items():
            faults.setdefault(fault, f"{said[:-1]} ({part} slices)." if part else said)
    return faults


def _faults_of(by_name: dict[str, Measure]) -> dict[str, str]:
    """Those of images, or of the slices of a plane."""
    value = {name: measure.value for name, measure in by_name.items() if measure.value is not None}
    ratio = value["gradient_ratio"] if _off(by_name, "gradient_ratio") else 1.0
    fine = value.get("psd_top_third", 0.0) if (uneven := _off(by_name, "psd", NEAR_REAL)) else 0.0
    kind = None
    if ratio < SHARP[0] or fine < -FINE_DB:
        kind, meaning = "soft", "Soft: detail is missing"
    elif ratio > SHARP[1] or fine > FINE_DB:
        kind, meaning = "grainy", "Grainy: noise, or texture that is not real"
    elif uneven:
        kind, meaning = "of another texture", "Texture is not as in real images"
    faults = {}
    if kind:
        said = [words.format(value[name]) for name, words in TEXTURE.items() if name in value]
        faults[kind] = f"{meaning}; {', '.join(said)}."
    if step := _off(by_name, "step_ratio"):
        change = f"The change from a slice to the next is {step.value:.2f} of the real one."
        faults |= {"smeared between slices": change} if step.value < SHARP[0] else {}
        faults |= {"flickering between slices": change} if step.value > SHARP[1] else {}
    if (auc := value.get("c2st_auc", 0.0)) > TOLD_APART:
        told = f"A classifier tells them from real images of other subjects: AUC {auc:.2f}, 0.5 where it cannot."
        faults["told from real images by a classifier"] = told
    return faults


def _brightness(by_name: dict[str, Measure]) -> list[str]:
    off = any(_off(by_name, name, NEAR_REAL) for name in by_name if base_name(name) == "intensity_w1")
    return ["Their brightness or contrast differs from that of real images."] if off else []


def _variety(by_name: dict[str, Measure]) -> list[str]:
    found = []
    if coverage := _off(by_name, "coverage"):
        found.append(
            f"They reach {coverage.value:.0%} of the real images, where real images of other subjects reach "
            f"{coverage.floor:.0%}: kinds of images are missing."
        )
    if duplicates := _off(by_name, "duplicates"):
        found.append(f"{duplicates.value:.1%} are near-duplicates of another synthetic image: a sign of mode collapse.")
    return found


def utility(by_name: dict[str, Measure]) -> Verdict:
    """What a network learns from synthetic images beside what it learns from real ones, which is the floor."""
    measures = [by_name[name] for name in ("utility_tstr", "utility_augmented") if name in by_name]
    known = [measure for measure in measures if measure.value is not None and measure.floor is not None]
    if len(known) < 2:
        reasons = [f"{measure.name}: {measure.remark}" for measure in measures if measure.remark]
        ask = "It is measured of images alone." if "variance_ratio" in by_name else "Ask for it with --utility true."
        return Verdict("Utility", "unknown", "Not measured.", reasons or [ask])
    alone, added = known
    unit = f" {alone.unit}" if alone.unit else ""
    reasons = [
        f"Tested on held-out real images, a network trained on synthetic ones alone reaches "
        f"{figures(alone.value)}{unit}, on real ones alone {figures(alone.floor)}{unit}, on both "
        f"{figures(added.value)}{unit}.",
        *([f"{alone.note[0].upper()}{alone.note[1:]}."] if alone.note else []),
    ]
    if alone.baseline is not None:
        reasons.append(f"Trained on images of a PCA-GMM alone: {figures(alone.baseline)}{unit}.")
    reasons += _segmenters(by_name)
    if added.interval and added.interval[0] > added.floor:
        return Verdict("Utility", "good", "Adding them to the real images helps, for this task.", reasons)
    if added.interval and added.interval[1] < added.floor:
        return Verdict("Utility", "poor", "Adding them to the real images harms, for this task.", reasons)
    if alone.interval and alone.interval[1] < alone.floor:
        return Verdict("Utility", "poor", "No substitute for real images, and no clear gain beside them.", reasons)
    return Verdict("Utility", "mixed", "No clear gain over real images alone, for this task.", reasons)


def _segmenters(by_name: dict[str, Measure]) -> list[str]:
    """What segmenters learn from images with label maps, where there are such."""
    alone, added = by_name.get("dice_tstr"), by_name.get("dice_augmented")
    if alone is None or alone.value is None or alone.floor is None:
        return []
    painted = "" if alone.baseline is None else f", on painted label maps {figures(alone.baseline)}"
    both = "" if added is None or added.value is None else f", on real and synthetic ones {figures(added.value)}"
    return [
        f"A segmenter trained on synthetic images alone reaches a Dice of {figures(alone.value)}, on real ones alone "
        f"{figures(alone.floor)}{both}{painted}."
    ]


def privacy(by_name: dict[str, Measure], readable: bool | None, copies: Sequence[str] = ()) -> Verdict:
    """Whether copies of training images show.

    Args:
        readable: whether the images are real enough for copying to be visible at all; None: this could not be judged.
        copies: synthetic images that are nearly training images, in words.
    """
    if copies:
        more = [f"And {len(copies) - COPIES_NAMED} more."] if len(copies) > COPIES_NAMED else []
        headline = f"{len(copies)} of the images {'is' if len(copies) == 1 else 'are'} nearly a training image each."
        return Verdict(
            "Privacy", "poor", headline, ["Don't share these images.", *copies[:COPIES_NAMED], *more, NO_PROOF]
        )
    signs, values, control = [], [], by_name.get("copies_control")
    for name, rises, meaning in (
        ("closer_to_train", True, "nearer to a training image than to a held-out one"),
        ("authenticity", False, "farther from their nearest training image than that one is from other subjects"),
        ("membership_auc", True, "chance that distance to synthetic images separates training from held-out images"),
    ):
        measure = by_name.get(name)
        if measure is None or measure.value is None:
            continue
        centre = 0.5 if measure.floor is None else (max if rises else min)(0.5, measure.floor)
        beyond = (measure.value - centre) * (1 if rises else -1)
        values.append(f"{standing(measure).words()} ({meaning}).")
        # volumes are few
        by_chance = control is not None and measure.interval and measure.interval[0] <= centre
        if beyond > SUSPICIOUS and not by_chance:
            signs.append((name, beyond))
    if not values:
        notes = [
            f"{name}: {by_name[name].note}." for name in MEASURES_OF_COPIES if name in by_name and by_name[name].note
        ]
        return Verdict("Privacy", "unknown", "No near-duplicate found; more cannot be said.", [*notes, NO_PROOF])
    if signs:
        names = ", ".join(name for name, _ in signs)
        copied = max(beyond for _, beyond in signs) > COPIED
        headline = "Closer to the training images than expected, by one measure."
        advice = "Look at the nearest pairs below before you share these images."
        if copied or len(signs) > 1:
            headline = "Training images are repeated." if copied else "Signs that training images are repeated."
            advice = "Look at the nearest pairs below, and don't share these images."
        reasons = [f"Caught by {names}. {advice}", *values]
        return Verdict("Privacy", "poor" if copied else "mixed", headline, [*reasons, NO_PROOF])
    if control is not None and control.value < LEAST_FOUND:
        headline = f"Not conclusive: of disguised training volumes, only {control.value:.0%} are found."
        return Verdict("Privacy", "unknown", headline, [*values, NO_PROOF])
    if readable is None:
        headline = "Not conclusive: whether these images are real enough to show copies could not be judged."
        return Verdict("Privacy", "unknown", headline, [*values, NO_PROOF])
    if not readable:
        headline = "Not conclusive: copies are hard to find in images so unlike real ones."
        return Verdict("Privacy", "unknown", headline, [*values, NO_PROOF])
    return Verdict("Privacy", "good", "No sign of copying in these tests, which are no proof.", [*values, NO_PROOF])
