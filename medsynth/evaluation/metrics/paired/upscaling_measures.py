"""Measure images that were made finer against the truth: one row of numbers a subject, then all subjects together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.catalog import ANY, Entry
from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.paired.fourier_ring import HALF, SEVENTH, FourierRing, fourier_ring, resolution_mm
from medsynth.evaluation.metrics.paired.structural import ssim
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.texture import mean_gradients

Images = NDArray[np.float32]
Row = dict[str, float]

MEASURES = {
    "psnr_head": Entry("higher", "dB", "peak signal-to-noise ratio inside the patient", limits=ANY),
    "ssim_head": Entry("higher", "", "structural similarity inside the patient, slice by slice", limits=(-1.0, 1.0)),
    "psnr": Entry("higher", "dB", "the same of whole slices, air included", limits=ANY),
    "ssim": Entry("higher", "", "the same of whole slices, air included", limits=(-1.0, 1.0)),
    "resolution_mm": Entry("lower", "mm", "period at which the Fourier ring correlation with the truth falls to 0.5"),
    "resolution_seventh_mm": Entry("lower", "mm", "the same at 1/7"),
    "gradient_ratio": Entry("near", "", "sharpness: mean gradient over the truth's, whether or not it is true", 1.0),
}


def measure_subject(
    fake: Images, real: Images, mask: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[Row, FourierRing]:
    """All measures of a subject's slices, and their Fourier ring correlation.

    Args:
        fake, real: (N, H, W) in [0, 1], which is the data range.
        mask: (N, H, W), true inside the patient.
        spacing_mm: between rows and between columns.

    Returns: name -> value, see `MEASURES`.
    """
    ring = fourier_ring(fake, real, spacing_mm)
    inside = [index for index in range(len(real)) if mask[index].any()]
    everywhere = np.ones(mask.shape[1:], bool)
    row = {
        "psnr_head": _psnr(fake[mask], real[mask]),
        "ssim_head": float(np.mean([ssim(fake[i], real[i], mask[i], 1.0) for i in inside])),
        "psnr": _psnr(fake, real),
        "ssim": float(np.mean([ssim(one, other, everywhere, 1.0) for one, other in zip(fake, real, strict=True)])),
        "resolution_mm": resolution_mm(ring, HALF),
        "resolution_seventh_mm": resolution_mm(ring, SEVENTH),
        "gradient_ratio": float(mean_gradients(fake).mean() / mean_gradients(real).mean()),
    }
    return row, ring


def summarize(rows: dict[str, Sequence[Row]], network: str, baselines: Sequence[str], seed: int) -> list[Measure]:
    """The mean of each measure over subjects, for each method, with a bootstrap interval over them.

    Args:
        rows: method -> one a subject, in one order.
        network: the method that the measures without a method in their name are of.
        baselines: the methods that it has to beat: `baseline` is the best of them, and `note` names it.
        seed: of the bootstrap.
    """
    measures = [_best_beside(name, rows, network, baselines, seed) for name in MEASURES]
    best = best_of("psnr_head", rows, baselines)
    gains = [own["psnr_head"] - other["psnr_head"] for own, other in zip(rows[network], rows[best], strict=True)]
    note = f"of {network} over {best}, subject by subject"
    measures.append(mean_over_subjects("psnr_head_gain", gains, Entry("higher", "dB", "", limits=ANY), seed, note=note))
    others = [method for method in rows if method != network]
    return measures + [
        mean_over_subjects(f"{name}_{method}", [row[name] for row in rows[method]], MEASURES[name], seed)
        for method in others
        for name in MEASURES
    ]


def best_of(name: str, rows: dict[str, Sequence[Row]], methods: Sequence[str]) -> str:
    """The method with the best mean of a measure."""
    return min(methods, key=lambda method: _loss(mean_of(name, rows[method]), MEASURES[name]))


def mean_of(name: str, rows: Sequence[Row]) -> float:
    """Over subjects."""
    return float(np.mean([row[name] for row in rows]))


def mean_over_subjects(name: str, values: Sequence[float], kind: Entry, seed: int, **more: float | str) -> Measure:
    """The mean of one measure with its bootstrap interval; `more` is what else the result says."""
    array, interval = np.array(values), None
    if len(array) > 1 and np.isfinite(array).all():
        replicates = resampling.mean(array, np.arange(len(array)))
        interval = bootstrap_interval(float(array.mean()), replicates, len(array), seed, kind.limits)
    value = float(array.mean())
    return Measure(name, value, kind.unit, kind.direction, len(array), target=kind.target, interval=interval, **more)


def _best_beside(
    name: str, rows: dict[str, Sequence[Row]], network: str, baselines: Sequence[str], seed: int
) -> Measure:
    best = best_of(name, rows, baselines)
    values = [row[name] for row in rows[network]]
    note = f"baseline: {best}"
    return mean_over_subjects(name, values, MEASURES[name], seed, baseline=mean_of(name, rows[best]), note=note)


def _loss(value: float, kind: Entry) -> float:
    if kind.direction == "near":
        return abs(value - kind.target)
    return value if kind.direction == "lower" else -value


def _psnr(fake: NDArray, real: NDArray) -> float:
    error = float(np.mean((fake.astype(np.float64) - real) ** 2))
    return 10 * math.log10(1 / error) if error > 0 else math.inf
