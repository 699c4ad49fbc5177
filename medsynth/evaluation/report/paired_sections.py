"""The sections of a report on predictions: measures, agreement, error maps, volumes, subjects."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from medsynth.evaluation.metrics.catalog import PAIRED
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report import figures
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Section, Table, Viewer, Volume, number, numeric

WINDOW_PERCENTILES = (0.5, 99.5)  # of the target's body, shown as black and white
LARGEST_ERROR_PERCENTILE = 99.0  # shown as the ends of the error's colours
MARGIN = 4  # voxels round the body
MOST_VOXELS = 1_500_000  # of a volume in the page; larger ones are shown with every second voxel
LEVELS = 255
SLOPE_OFFSET = 112  # bytes into a NIfTI header, of the slope and then the intercept


@dataclass(frozen=True)
class Case:
    """A subject to look at: voxels (X, Y, Z) of one grid.

    Args:
        error: its mean absolute error.
        source: None if it is unknown or on another grid.
        source_unit: of its values.
    """

    subject: str
    error: float
    prediction: np.ndarray
    target: np.ndarray
    source: np.ndarray | None
    mask: np.ndarray
    affine: np.ndarray
    source_unit: str


def paired_measures(measures: Sequence[Measure], unit: str, data_range: tuple[float, float]) -> Section:
    """The table of all measures."""
    simple = list(dict.fromkeys(name for measure in measures for name in measure.baselines or {}))
    fewer = list(dict.fromkeys(name for measure in measures for name in measure.by_contrasts or {}))
    columns = [
        Column("Measure", numeric=False),
        Column("Mean"),
        Column("SD", help="standard deviation over subjects"),
        Column("95 % interval", help="bootstrap over subjects"),
        *(Column(name.capitalize(), help="what this simple method predicts") for name in simple),
        *(Column(name[0].upper() + name[1:], help="from these contrasts") for name in fewer),
        Column("Best", numeric=False),
        Column("Subjects"),
    ]
    caption = (
        f"Means over subjects, inside the body, in {unit}; data range {data_range[0]:g} to {data_range[1]:g}. "
        "SynthRAD's measures have their own ranges. The binary measures take intensities for probabilities, as some "
        "works report them, and say little."
    )
    rows = []
    for measure in measures:
        name = f"{measure.name} ({measure.unit})" if measure.unit else measure.name
        interval = f"{number(measure.interval[0])} to {number(measure.interval[1])}" if measure.interval else DASH
        about = "; ".join(part for part in (PAIRED[measure.name].about, measure.note) if part)
        best = {"lower": "low", "higher": "high", "near": f"near {number(measure.target)}"}[measure.direction]
        rows.append(
            [
                Cell(name, measure.name, detail=about),
                numeric(measure.value, 4, strong=True),
                numeric(measure.spread),
                Cell(interval, measure.interval[0] if measure.interval else None),
                *(numeric((measure.baselines or {}).get(name), 4) for name in simple),
                *(numeric((measure.by_contrasts or {}).get(name), 4) for name in fewer),
                Cell(best, best),
                numeric(measure.n),
            ]
        )
    return Section("measures", "Measures", [], [Table(caption, columns, rows)])


def case_sections(cases: Sequence[Case], rows: Sequence[dict[str, float]], unit: str) -> list[Section]:
    """Error maps, the viewer and agreement; the worst case first."""
    low, high = _window(cases)
    limit = _limit(cases)
    maps = figures.error_maps(
        [_slices(case, low, high) for case in cases], [case.subject for case in cases], limit, f"error, {unit}"
    )
    alt = "; ".join(f"{case.subject}: mean absolute error {case.error:.3g} {unit}" for case in cases)
    text = (
        f"The slice with the largest error of the worst, the median and the best subject. Images from {low:.4g} to "
        f"{high:.4g} {unit}; errors (prediction less target) inside the body alone."
    )
    sections = [Section("worst", "Worst cases first", [], [Gallery([Figure("error_maps", "Errors", alt, text, maps)])])]
    if all(case.target.shape[-1] > 1 for case in cases):
        note = "Shown with 256 grey levels, cut to the body" + (
            ", every second voxel." if any(_is_large(case) for case in cases) else "."
        )
        shown = {
            f"{case.subject} (error {case.error:.3g} {unit})": _volumes(case, low, high, limit, unit) for case in cases
        }
        sections.append(Section("volumes", "Volumes", [], [Viewer(shown, note)]))
    means = np.array([(row["mean_prediction"] + row["mean_target"]) / 2 for row in rows])
    differences = np.array([row["mean_prediction"] - row["mean_target"] for row in rows])
    plot = Figure(
        "bland_altman", "Bland-Altman", f"Mean difference of {len(rows)} subjects: {differences.mean():.3g} {unit}.",
        "A dot a subject: means over the body. Bias and limits of agreement (1.96 standard deviations) as lines.",
        figures.bland_altman(means, differences, unit),
    )  # fmt: skip
    return [*sections, Section("agreement", "Agreement", [], [Gallery([plot])])]


def subject_table(rows: Sequence[dict[str, Any]], unit: str) -> Section:
    """A table that sorts, one row a subject, the largest error first; also in metrics.csv."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [Column(name.replace("_", " "), numeric=name != "subject") for name in names]
    cells = [
        [Cell(row["subject"], row["subject"]), *(numeric(row.get(name), 4) for name in names if name != "subject")]
        for row in rows
    ]
    caption = f"Errors in {unit}, inside the body; the largest error first."
    return Section("subjects", "Subject by subject", [], [Table(caption, columns, cells)])


def _window(cases: Sequence[Case]) -> tuple[float, float]:
    body = np.concatenate([case.target[case.mask][::7] for case in cases])
    low, high = np.percentile(body, WINDOW_PERCENTILES)
    return float(low), float(high if high > low else low + 1)


def _limit(cases: Sequence[Case]) -> float:
    errors = np.concatenate([np.abs(case.prediction - case.target)[case.mask][::7] for case in cases])
    return float(np.percentile(errors, LARGEST_ERROR_PERCENTILE)) or 1.0


def _slices(case: Case, low: float, high: float) -> dict[str, np.ndarray]:
    """The slice of the largest error, upright, in [0, 1]; the error in units."""
    error = np.where(case.mask, case.prediction - case.target, 0)
    worst = int(np.abs(error).sum(axis=(0, 1)).argmax())
    images = {"source": case.source, "prediction": case.prediction, "target": case.target}
    shown = {}
    for name, volume in images.items():
        if volume is not None:
            span = np.percentile(volume, WINDOW_PERCENTILES) if name == "source" else (low, high)
            scaled = (volume[..., worst] - span[0]) / max(span[1] - span[0], 1e-9)
            shown[name] = _upright(scaled.clip(0, 1), case.affine)
    return shown | {"error": _upright(error[..., worst], case.affine)}


def _upright(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Rows from front to back and columns from the patient's right, where the plane is axial; pictures as they are."""
    if np.allclose(affine, np.eye(4)):
        return image
    codes = nib.aff2axcodes(affine)[:2]
    if set(codes) & {"S", "I"}:
        return np.rot90(image)
    rows_first = image if codes[0] in "AP" else image.T
    across, along = (codes[1], codes[0]) if codes[0] in "AP" else (codes[0], codes[1])
    return rows_first[:: -1 if along == "A" else 1, :: -1 if across == "R" else 1]


def _is_large(case: Case) -> bool:
    return case.mask.size > MOST_VOXELS


def _volumes(case: Case, low: float, high: float, limit: float, unit: str) -> list[Volume]:
    """Cut to the body, in 256 levels."""
    inside = np.argwhere(case.mask)
    first = np.maximum(inside.min(axis=0) - MARGIN, 0)
    last = np.minimum(inside.max(axis=0) + MARGIN + 1, case.mask.shape)
    step = 2 if _is_large(case) else 1
    cut = tuple(slice(a, b, step) for a, b in zip(first, last, strict=True))
    affine = case.affine @ nib.affines.from_matvec(np.diag([step] * 3), first)
    error = np.where(case.mask, case.prediction - case.target, 0)
    shown = [("synthetic", case.prediction, low, high, unit), ("target", case.target, low, high, unit)]
    if case.source is not None:
        bottom, top = map(float, np.percentile(case.source, WINDOW_PERCENTILES))
        shown.insert(0, ("source", case.source, bottom, max(top, bottom + 1e-6), case.source_unit))
    shown.append(("error", error, -limit, limit, unit))
    return [Volume(name, levels(v[cut], affine, a, b), a, b, units) for name, v, a, b, units in shown]


def levels(voxels: np.ndarray, affine: np.ndarray, low: float, high: float) -> bytes:
    """Compressed NIfTI of 8 bits, with slope and intercept back to units; what is beyond the window becomes its end."""
    coded = np.round((voxels.clip(low, high) - low) / (high - low) * LEVELS).astype(np.uint8)
    content = bytearray(nib.Nifti1Image(coded, affine).to_bytes())
    struct.pack_into("<ff", content, SLOPE_OFFSET, (high - low) / LEVELS, low)  # nibabel would scale the levels by it
    return gzip.compress(bytes(content), mtime=0)
