"""The sections of a report on super-resolution: methods side by side, images, ring correlations, subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsynth.evaluation.metrics.catalog import Entry
from medsynth.evaluation.metrics.paired.fourier_ring import HALF, SEVENTH, FourierRing
from medsynth.evaluation.metrics.paired.upscaling_measures import MEASURES, Row, mean_of
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report import figures
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Section, Table, number, numeric

TITLES = {
    "psnr_head": "PSNR, patient",
    "ssim_head": "SSIM, patient",
    "psnr": "PSNR, whole",
    "ssim": "SSIM, whole",
    "resolution_mm": "Resolution",
    "resolution_seventh_mm": "at 1/7",
    "gradient_ratio": "Gradients",
}
MOST_CASES = 3  # shown: the worst, the median, the best
SHOWN = 112  # pixels a side of what is shown of a slice
LARGEST_ERROR_PERCENTILE = 99.5  # shown as the ends of the error's colours
MARGIN = 0.5  # of a slice's head on each side of the middle of what is shown


@dataclass(frozen=True)
class Case:
    """A subject.

    Args:
        slices: how many were measured.
        images: method -> the middle one (H, W) in [0, 1], and that of the "truth".
        head: (H, W), true inside the patient.
        rings: method -> Fourier ring correlation.
        spacing_mm: between rows and between columns.
    """

    subject: str
    slices: int
    images: dict[str, np.ndarray]
    head: np.ndarray
    rings: dict[str, FourierRing]
    spacing_mm: tuple[float, float]


def superres_sections(
    rows: dict[str, Sequence[Row]], measures: Sequence[Measure], cases: Sequence[Case], network: str, scale: int
) -> list[Section]:
    """All of them, in order.

    Args:
        rows: method -> one a subject, in the order of the cases.
        measures: their summary.
        network: the method under evaluation.
        scale: of the fine grid to the coarse one.
    """
    order = np.argsort([row["psnr_head"] for row in rows[network]], kind="stable")
    return [
        _methods(rows, measures, network),
        _images([(cases[i], rows[network][i]) for i in order], list(rows)),
        _rings(cases, list(rows), network, scale),
        _subjects([cases[i] for i in order], {method: [found[i] for i in order] for method, found in rows.items()}),
    ]


def _methods(rows: dict[str, Sequence[Row]], measures: Sequence[Measure], network: str) -> Section:
    by_name = {measure.name: measure for measure in measures}
    columns = [Column("Method", numeric=False), *(Column(TITLES[name], help=MEASURES[name].about) for name in MEASURES)]
    lines = []
    for method in rows:
        line = [Cell(method, method, strong=method == network)]
        for name, kind in MEASURES.items():
            measure = by_name[name if method == network else f"{name}_{method}"]
            spread = np.std([row[name] for row in rows[method]], ddof=1) if measure.n > 1 else None
            detail = DASH
            if measure.interval:
                detail = f"± {_digits(spread, kind)} ({' – '.join(_digits(end, kind) for end in measure.interval)})"
            best = _is_best(measure.value, [mean_of(name, found) for found in rows.values()], kind)
            line.append(Cell(_digits(measure.value, kind), measure.value, detail=detail, strong=best))
        lines.append(line)
    caption = (
        "Means over subjects, in dB and mm; below, their standard deviation and the 95 % interval of the mean "
        "(bootstrap over subjects). Best values are bold. The data range is the intensity window, to which the truth "
        "and all results are clipped; nothing is rounded. SSIM: scikit-image's map, slice by slice. Gradients: their "
        "mean over the truth's, 1 is best."
    )
    return Section("methods", "Methods", [], [Table(caption, columns, lines)])


def _images(cases: Sequence[tuple[Case, Row]], methods: Sequence[str]) -> Section:
    shown = [cases[i] for i in sorted({0, len(cases) // 2, len(cases) - 1})[:MOST_CASES]]
    errors = [
        np.abs(case.images[method] - case.images["truth"])[case.head] for case, _ in shown for method in methods[:1]
    ]
    limit = float(np.percentile(np.concatenate(errors), LARGEST_ERROR_PERCENTILE)) or 1.0
    made = []
    for index, (case, row) in enumerate(shown):
        cut = _middle(case.head)
        images = {name: case.images[name][cut] for name in (*methods, "truth")}
        made.append(
            Figure(
                f"images_{index}",
                case.subject,
                f"{case.subject}: PSNR of the network inside the patient {row['psnr_head']:.2f} dB.",
                f"The middle slice of {case.slices}; the network reaches {row['psnr_head']:.2f} dB inside the patient. "
                "Below, what each method shows less the truth.",
                figures.methods_beside_truth(images, limit),
                1120,
            )
        )
    text = "Pixel for pixel, the middle of a slice: the worst subject, the median and the best."
    return Section("images", "Images and errors", [text], [Gallery(made)])


def _rings(cases: Sequence[Case], methods: Sequence[str], network: str, scale: int) -> Section:
    curves = {}
    finest = min(case.rings[network].frequency[-1] for case in cases)
    grid = np.linspace(0, finest, 200)
    for method in methods:
        each = [np.interp(grid, case.rings[method].frequency, case.rings[method].correlation) for case in cases]
        curves[method] = np.mean(each, axis=0)
    limit = 0.5 / (scale * max(cases[0].spacing_mm))
    png = figures.ring_correlations(grid, curves, network, limit, (HALF, SEVENTH))
    alt = f"Fourier ring correlation of {len(methods)} methods with the truth, from coarse to fine detail."
    caption = (
        "Of the whole slices, mean over subjects. The dotted line is the finest detail along rows and columns that the "
        "coarse grid can hold (on its diagonals, it is finer by the root of 2). Resolution is the period at which a "
        "curve falls to 0.5; 1/7 is the threshold for two images that are equally noisy, and given because many works "
        "use it."
    )
    text = "Brightness and contrast do not count here, nor sharpness: only whether detail is where it is in the truth."
    return Section(
        "resolution", "Resolution", [text], [Gallery([Figure("ring_correlation", "Agreement", alt, caption, png)])]
    )


def _subjects(cases: Sequence[Case], rows: dict[str, Sequence[Row]]) -> Section:
    columns = [Column("Subject", numeric=False), Column("Slices"), *(Column(method) for method in rows)]
    lines = [
        [
            Cell(case.subject, case.subject),
            numeric(case.slices),
            *(
                Cell(_digits(found[i]["psnr_head"], MEASURES["psnr_head"]), found[i]["psnr_head"])
                for found in rows.values()
            ),
        ]
        for i, case in enumerate(cases)
    ]
    caption = "PSNR inside the patient, in dB; the lowest of the network first. All measures are in metrics.csv."
    return Section("subjects", "Subject by subject", [], [Table(caption, columns, lines)])


def _digits(value: float | None, kind: Entry) -> str:
    """Two decimals of dB and mm, three of ratios."""
    if value is None or not np.isfinite(value):
        return number(value)
    return f"{value:.{2 if kind.unit else 3}f}".replace("-", "−")


def _is_best(value: float, others: Sequence[float], kind: Entry) -> bool:
    if kind.direction == "near":
        return abs(value - kind.target) <= min(abs(other - kind.target) for other in others)
    return value >= max(others) if kind.direction == "higher" else value <= min(others)


def _middle(head: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is shown: about the middle of the head."""
    cut = []
    for axis, side in enumerate(head.shape):
        inside = np.flatnonzero(head.any(1 - axis))
        centre = int((inside[0] + inside[-1]) * MARGIN) if inside.size else side // 2
        start = max(0, min(centre - SHOWN // 2, side - SHOWN))
        cut.append(slice(start, min(side, start + SHOWN)))
    return cut[0], cut[1]
