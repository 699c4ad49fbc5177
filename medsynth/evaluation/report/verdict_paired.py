"""Verdicts on predictions: accuracy, bias, and consistency from slice to slice."""

from __future__ import annotations

from collections.abc import Sequence

from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.verdict import Verdict, figures

ACCURACY = ("mae", "mae_soft", "mae_bone", "rmse", "nrmse", "psnr", "ssim", "ms_ssim")
FEW = 5  # subjects that say little about others
EVEN = 0.1  # that the change from slice to slice may be off by
LARGE_BIAS = 0.25  # of the mean absolute error


def paired_verdicts(measures: Sequence[Measure], subjects: int) -> list[Verdict]:
    """Accuracy, bias and consistency."""
    by_name = {measure.name: measure for measure in measures if measure.value is not None}
    return [_accuracy(by_name, subjects), _bias(by_name), _consistency(by_name)]


def _words(measure: Measure) -> str:
    unit = f" {measure.unit}" if measure.unit else ""
    interval = f" (95 % {figures(measure.interval[0])} to {figures(measure.interval[1])})" if measure.interval else ""
    return f"{measure.name} {figures(measure.value)}{unit}{interval}"


def _accuracy(by_name: dict[str, Measure], subjects: int) -> Verdict:
    known = [by_name[name] for name in ACCURACY if name in by_name]
    compared = [measure for measure in known if measure.baseline is not None]
    losing = [m for m in compared if (m.value > m.baseline) == (m.direction == "lower") and m.value != m.baseline]
    reasons = ["; ".join(_words(by_name[name]) for name in ("mae", "psnr", "ssim") if name in by_name) + "."]
    if fewer := by_name["mae"].by_contrasts if "mae" in by_name else None:
        errors = ", ".join(f"{figures(value)} {name}" for name, value in fewer.items())
        reasons.append(f"With fewer contrasts, mae is {errors}.")
    if subjects < FEW:
        reasons.append(f"{subjects} subject(s) only: this says little about others.")
    if not compared:
        reasons.append("No baseline: it takes a datalist with the sources of training and held-out subjects.")
        return Verdict("Accuracy", "unknown", "Measured, with nothing simple to compare with.", reasons)
    names = ", ".join(measure.name for measure in losing)
    headline = f"Worse than a lookup of intensities in {len(losing)} of {len(compared)} measures."
    if losing:
        return Verdict("Accuracy", "poor" if len(losing) > len(compared) / 2 else "mixed", headline, [*reasons, names])
    gain = 1 - by_name["mae"].value / by_name["mae"].baseline if by_name["mae"].baseline else 0.0
    reasons.append("Whether that is good enough depends on the use; look at the worst cases.")
    headline = f"Better than intensities alone can be: an error {gain:.0%} smaller than that of a lookup."
    return Verdict("Accuracy", "good" if gain > 0.2 else "mixed", headline, reasons)


def _bias(by_name: dict[str, Measure]) -> Verdict:
    if "bias" not in by_name or "mae" not in by_name:
        return Verdict("Bias", "unknown", "Not measured.", [])
    bias, error = by_name["bias"], by_name["mae"]
    reasons = [f"{_words(bias)}, beside a mean absolute error of {figures(error.value)}."]
    if {"agreement_low", "agreement_high"} <= by_name.keys():
        low, high = by_name["agreement_low"].value, by_name["agreement_high"].value
        reasons.append(f"95 % of voxels differ by {figures(low)} to {figures(high)} (limits of agreement).")
    if abs(bias.value) > LARGE_BIAS * error.value:
        return Verdict(
            "Bias", "mixed", "Too bright on the whole." if bias.value > 0 else "Too dark on the whole.", reasons
        )
    return Verdict("Bias", "good", "No systematic shift of intensities.", reasons)


def _consistency(by_name: dict[str, Measure]) -> Verdict:
    if "slice_step_ratio" not in by_name:
        return Verdict("Consistency", "unknown", "Not applicable to single slices.", [])
    ratio = by_name["slice_step_ratio"]
    reasons = [f"Change from slice to slice is {figures(ratio.value)} of the target's."]
    if "slice_flicker" in by_name:
        reasons.append(f"The mean error of slices scatters by {_words(by_name['slice_flicker']).split(' ', 1)[1]}.")
    if abs(ratio.value - 1) <= EVEN:
        return Verdict("Consistency", "good", "Slices follow each other as in the targets.", reasons)
    headline = "Slices flicker." if ratio.value > 1 else "Smoother from slice to slice than the targets."
    return Verdict("Consistency", "mixed", headline, reasons)
