"""Verdicts on super-resolution: closeness to the truth, and true detail."""

from __future__ import annotations

from collections.abc import Sequence

from medsynth.evaluation.metrics.paired.upscaling_measures import Row, best_of, mean_of
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.verdict import Verdict, figures

FEW = 5  # subjects that say little about others
SAME = 1e-4  # part by which equal measures may differ, of rounding
FINER = 0.97  # of an interpolation's resolution: below, there is more true detail
CLOSENESS = {
    "psnr_head": ("PSNR inside the patient", 2, " dB"),
    "ssim_head": ("SSIM inside the patient", 3, ""),
    "psnr": ("PSNR of whole slices", 2, " dB"),
    "ssim": ("SSIM of whole slices", 3, ""),
}
"""What counts as closeness: in words, decimals, unit."""
SHARP = 0.1  # that the gradients may exceed the truth's by


def superres_verdicts(
    rows: dict[str, Sequence[Row]], measures: Sequence[Measure], network: str, baselines: Sequence[str],
    compared: str | None = None,
) -> list[Verdict]:  # fmt: skip
    """Verdicts on closeness and resolution and, with another network, on the difference between the two.

    Args:
        rows: method -> one row per subject.
        measures: their summary.
        network: the method under evaluation.
        baselines: the interpolations to compare with.
        compared: another network among the methods.
    """
    by_name = {measure.name: measure for measure in measures}
    found = [_closeness(rows, by_name, network, baselines), _resolution(rows, network, baselines)]
    return [*found, _price(rows, network, compared)] if compared else found


def _closeness(
    rows: dict[str, Sequence[Row]], by_name: dict[str, Measure], network: str, baselines: Sequence[str]
) -> Verdict:
    losses: dict[str, str] = {}
    reasons = []
    for name, (words, digits, unit) in CLOSENESS.items():
        best = best_of(name, rows, baselines)
        own, other = mean_of(name, rows[network]), mean_of(name, rows[best])
        reasons.append(f"{words}: {own:.{digits}f}{unit}; the best interpolation, {best}, {other:.{digits}f}{unit}.")
        if own < other * (1 - SAME):
            losses[name] = f"to {best} in {words}"
    gain = by_name["psnr_head_gain"]
    low, high = gain.interval or (gain.value, gain.value)
    between = f" (95 % {low:+.2f} to {high:+.2f})" if gain.interval else ""
    reasons.append(f"Gain of PSNR inside the patient, subject by subject: {gain.value:+.2f} dB{between}.")
    if gain.n < FEW:
        reasons.append(f"{gain.n} subject(s) only: this says little about others.")
    lost = " and ".join(losses.values())
    if {"psnr_head", "ssim_head"} & losses.keys():
        return Verdict("Closeness", "poor", f"The network loses {lost}: interpolate instead, or train longer.", reasons)
    if low <= 0:
        return Verdict("Closeness", "mixed", "Not significantly nearer to the truth than interpolation.", reasons)
    if losses:
        headline = f"Nearer to the truth inside the patient, by {gain.value:.2f} dB, but it loses {lost}."
        return Verdict("Closeness", "mixed", headline, reasons)
    return Verdict("Closeness", "good", f"Nearer to the truth than any interpolation, by {gain.value:.2f} dB.", reasons)


def _resolution(rows: dict[str, Sequence[Row]], network: str, baselines: Sequence[str]) -> Verdict:
    best = best_of("resolution_mm", rows, baselines)
    own, other = (mean_of("resolution_mm", rows[method]) for method in (network, best))
    ratio = mean_of("gradient_ratio", rows[network])
    reasons = [
        f"Detail agrees with the truth (Fourier ring correlation 0.5) down to {figures(own)} mm; {figures(other)} mm "
        f"with the best interpolation, {best}.",
        f"Gradients are {figures(ratio)} of the truth's: sharpness, whether or not it is true.",
    ]
    if own > other * (1 + SAME):
        return Verdict("Resolution", "poor", f"Less true detail than {best}.", reasons)
    if own > FINER * other:
        headline = "No more true detail than interpolation"
        return Verdict("Resolution", "mixed", headline + (", but sharper." if ratio > 1 + SHARP else "."), reasons)
    if ratio > 1 + SHARP:
        return Verdict("Resolution", "mixed", "More true detail than interpolation, and more invented detail.", reasons)
    return Verdict("Resolution", "good", "More true detail than any interpolation.", reasons)


def _price(rows: dict[str, Sequence[Row]], network: str, compared: str) -> Verdict:
    changes = {
        name: mean_of(name, rows[network]) - mean_of(name, rows[compared])
        for name in ("psnr_head", "ssim_head", "resolution_mm", "gradient_ratio")
    }
    reasons = [
        f"SSIM inside the patient {changes['ssim_head']:+.3f}, resolution {changes['resolution_mm']:+.2f} mm (below 0 "
        f"is finer), gradients over the truth's {changes['gradient_ratio']:+.3f}.",
    ]
    headline = f"{changes['psnr_head']:+.2f} dB of PSNR inside the patient beside the {compared}."
    return Verdict("Price", "good" if changes["psnr_head"] >= 0 else "mixed", headline, reasons)
