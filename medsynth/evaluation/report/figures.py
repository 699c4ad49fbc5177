"""Figures of a report as PNG files: colours of Okabe and Ito, and a shape wherever a colour means something."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from PIL import Image

from medsynth.evaluation.metrics.texture import FOREGROUND, radial_power_db

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#6b7280"
REAL, HELD_OUT, SYNTHETIC = BLUE, SKY, VERMILLION
CLASS_STYLES = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (PURPLE, "D"), (BLACK, "v"), (SKY, "P"), (YELLOW, "X"))
DPI = 130
GAP = 2  # pixels between the images of a grid
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
}


styled = matplotlib.rc_context(STYLE)  # a decorator: what is drawn in a function has this style


@dataclass(frozen=True)
class Figure:
    """One picture of the report.

    Args:
        name: of its file in `figures/`, without ending.
        title: what it shows.
        alt: what it says, for those who cannot see it.
        caption: how to read it.
        png: its file.
        width: in the page, in CSS pixels.
    """

    name: str
    title: str
    alt: str
    caption: str
    png: bytes
    width: int = 960


@dataclass(frozen=True)
class Group:
    """Points of a map that share a meaning."""

    name: str
    members: NDArray[np.bool_]
    colour: str
    marker: str


def grid(images: NDArray, columns: int = 9, least_width: int = 720) -> bytes:
    """(N, H, W) in [0, 1] row by row, enlarged to about `least_width` pixels."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1:]
    sheet = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP))
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray((sheet.clip(0, 1) * 255).round().astype(np.uint8))
    times = max(1, round(least_width / picture.width))
    buffer = io.BytesIO()
    picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@styled
def pairs(
    first: NDArray,
    second: NDArray,
    notes: Sequence[str],
    titles: tuple[str, str] = ("synthetic", "training"),
    columns: int = 4,
) -> bytes:
    """Pairs of images (N, H, W) in [0, 1] side by side, `columns` pairs a row, each with a note."""
    width, aspect, columns = 10.4 / columns, first.shape[1] / first.shape[2], min(columns, len(first))
    rows = -(-len(first) // columns)
    canvas = Canvas(figsize=(width * columns, (width / 2 * aspect + 0.42) * rows), layout="constrained")
    axes = np.atleast_2d(canvas.subplots(rows, columns, squeeze=False))
    gap = np.ones((first.shape[1], GAP))
    for i, panel in enumerate(axes.ravel()):
        panel.axis("off")
        if i < len(first):
            panel.imshow(np.hstack([first[i], gap, second[i]]), cmap="gray", vmin=0, vmax=1)
            panel.set_title(notes[i], fontsize=7.5, fontweight="normal", pad=2)
    canvas.suptitle(f"each pair: {titles[0]} left, {titles[1]} right", fontsize=9, x=0.01, ha="left", color=GREY)
    return _png(canvas)


@styled
def spectra(sets: dict[str, NDArray], colours: Sequence[str]) -> bytes:
    """Mean radial power spectra, and their difference from the first set's."""
    canvas, (left, right) = _canvas(2, (9.6, 3.4))
    powers = {name: radial_power_db(images) for name, images in sets.items()}
    reference = next(iter(powers.values()))
    for (name, power), colour, dashes in zip(powers.items(), colours, ("-", "--", "-"), strict=False):
        cycles = np.arange(1, len(power) + 1)
        left.plot(cycles, power, dashes, color=colour, label=name, linewidth=1.8)
        right.plot(cycles, power - reference, dashes, color=colour, linewidth=1.8)
    left.set(title="Power spectrum", xlabel="cycles an image side (fine detail to the right)", ylabel="power, dB")
    right.set(title="Difference from real training images", xlabel="cycles an image side", ylabel="dB")
    left.legend()
    return _png(canvas)


@styled
def intensities(sets: dict[str, NDArray], colours: Sequence[str]) -> bytes:
    """Histograms of the foreground."""
    canvas, (axes,) = _canvas(1, (9.6, 2.9))
    edges = (np.arange(round(FOREGROUND * 255), 257, 5) - 0.5) / 255  # as many grey levels of 8 bits in each
    for (name, images), colour, dashes in zip(sets.items(), colours, ("-", "--", "-"), strict=False):
        density, _ = np.histogram(images[images > FOREGROUND], edges, density=True)
        axes.plot((edges[:-1] + edges[1:]) / 2, density, dashes, color=colour, label=name, linewidth=1.8)
    axes.set(title="Intensities of the foreground", xlabel="intensity, 0 black to 1 white", ylabel="density")
    axes.set_ylim(bottom=0)
    axes.legend()
    return _png(canvas)


@styled
def scatter(points: NDArray, panels: dict[str, Sequence[Group]]) -> bytes:
    """A map (N, 2), once for each way to group its points."""
    canvas, panel_axes = _canvas(len(panels), (4.8 * max(2, len(panels)), 4.4))
    for axes, (title, groups) in zip(panel_axes, panels.items(), strict=True):
        for group in groups:
            x, y = points[group.members].T
            hollow = {"facecolors": "none"} if group.marker in "os" else {}
            colour = {"edgecolors": group.colour} if hollow else {"color": group.colour}
            axes.scatter(x, y, s=13, marker=group.marker, linewidths=0.9, label=group.name, **hollow, **colour)
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, markerscale=1.8, fontsize=8.5)
    return _png(canvas)


@styled
def against_floor(names: Sequence[str], synthetic: Sequence[float], baseline: Sequence[float | None]) -> bytes:
    """How many times as far from ideal as real images of other subjects, for each measure."""
    canvas, (axes,) = _canvas(1, (9.6, 0.9 + 0.27 * len(names)))
    rows = np.arange(len(names))[::-1]
    highest = max(10.0, *synthetic, *(value for value in baseline if value is not None)) * 1.3
    axes.axvspan(0.1, 1.5, color="#eaf3f8", zorder=0)
    axes.axvline(1, color=REAL, linewidth=1.5, label="real floor")
    for row, value, other in zip(rows, synthetic, baseline, strict=True):
        axes.plot([1, max(value, 0.1)], [row, row], color=SYNTHETIC, linewidth=1.2, alpha=0.6)
        if other is not None:
            axes.plot(max(other, 0.1), row, "D", markerfacecolor="white", color=GREY, markersize=5.5)
        axes.plot(max(value, 0.1), row, "o", color=SYNTHETIC, markersize=7)
    axes.plot([], [], "o", color=SYNTHETIC, label="synthetic")
    axes.plot([], [], "D", markerfacecolor="white", color=GREY, markersize=5.5, label="PCA-GMM")
    axes.set_xscale("log")
    axes.set_xlim(0.09, highest)
    axes.set_yticks(rows, names)
    axes.set_xlabel("distance from ideal, in units of the floor (1: as real images of other subjects; logarithmic)")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return _png(canvas)


@styled
def bland_altman(means: NDArray, differences: NDArray, unit: str) -> bytes:
    """Differences over means of subjects, with the bias and the limits of agreement (1.96 standard deviations)."""
    canvas, (axes,) = _canvas(1, (9.6, 3.4))
    bias, spread = differences.mean(), 1.96 * differences.std(ddof=1) if len(differences) > 1 else np.nan
    axes.scatter(means, differences, color=SYNTHETIC, s=28, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for value, name, dashes in (
        (bias, "bias", "-"),
        (bias - spread, "-1.96 SD", "--"),
        (bias + spread, "+1.96 SD", "--"),
    ):
        if np.isfinite(value):
            axes.axhline(value, color=REAL, linestyle=dashes, linewidth=1.2)
            axes.annotate(f"{name} {value:.3g}", (1, value), xycoords=("axes fraction", "data"), fontsize=8,
                          ha="right", va="bottom", color=REAL)  # fmt: skip
    axes.set(xlabel=f"mean of prediction and target, {unit}", ylabel=f"prediction less target, {unit}")
    return _png(canvas)


@styled
def error_maps(rows: Sequence[dict[str, NDArray]], names: Sequence[str], limit: float, unit: str) -> bytes:
    """A row a subject: images in [0, 1] and, last, the signed error in units, blue below and red above the target."""
    columns = list(rows[0])
    canvas = Canvas(figsize=(2.3 * len(columns), 2.3 * len(rows) + 0.3), layout="constrained")
    grid = canvas.subplots(len(rows), len(columns), squeeze=False)
    for line, (row, name) in enumerate(zip(rows, names, strict=True)):
        for axes, column in zip(grid[line], columns, strict=True):
            signed = column == "error"
            span = (
                {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "gray", "vmin": 0, "vmax": 1}
            )
            shown = axes.imshow(row[column], **span)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            if line == 0:
                axes.set_title(column)
        grid[line][0].set_ylabel(name, fontsize=8)
    canvas.colorbar(shown, ax=grid[:, -1], label=unit, shrink=0.8)
    return _png(canvas)


@styled
def methods_beside_truth(images: dict[str, NDArray], limit: float) -> bytes:
    """Images (H, W) in [0, 1] of several methods and, last, the truth; below each its signed error."""
    *methods, truth = images
    height, width = images[truth].shape
    canvas = Canvas(figsize=(1.75 * len(images), 3.6 * height / width + 0.4), layout="constrained")
    above, below = canvas.subplots(2, len(images))
    for axes in (*above, *below):
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    for axes, (name, image) in zip(above, images.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name)
    for axes, name in zip(below, methods, strict=False):
        shown = axes.imshow(images[name] - images[truth], cmap="RdBu_r", vmin=-limit, vmax=limit)
    below[-1].axis("off")
    canvas.colorbar(shown, cax=below[-1].inset_axes((0.05, 0.1, 0.08, 0.8)), label="error, part of the range")
    return _png(canvas)


@styled
def ring_correlations(
    frequency: NDArray, curves: dict[str, NDArray], network: str, limit: float, thresholds: Sequence[float]
) -> bytes:
    """Correlation with the truth over cycles a mm, a line a method; `limit` is what the coarse grid can hold."""
    canvas, (axes,) = _canvas(1, (9.6, 3.8))
    dashes = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)))
    colours = (GREY, ORANGE, GREEN, SKY, PURPLE, BLUE, BLACK)
    for index, (name, curve) in enumerate(curves.items()):
        style = {"color": VERMILLION, "linewidth": 2.4} if name == network else {
            "color": colours[index % len(colours)], "linestyle": dashes[index % len(dashes)], "linewidth": 1.5,
        }  # fmt: skip
        axes.plot(frequency, curve, label=name, **style)
    for threshold in thresholds:
        axes.axhline(threshold, color=GREY, linewidth=0.8)
    axes.axvline(limit, color=BLACK, linewidth=1, linestyle=":")
    axes.set(xlabel="cycles a mm (fine detail to the right)", ylabel="Fourier ring correlation", ylim=(-0.1, 1.02))
    ticks = [tick for tick in axes.get_xticks() if 0 < tick < 1.01 * frequency[-1]]
    axes.secondary_xaxis("top").set_xticks(ticks, [f"{1 / tick:.3g} mm" for tick in ticks])
    axes.legend(loc="upper right", bbox_to_anchor=(1.24, 1.0))
    return _png(canvas)


def _canvas(panels: int, size: tuple[float, float]) -> tuple[Canvas, Sequence[Axes]]:
    canvas = Canvas(figsize=size, layout="constrained")
    return canvas, list(canvas.subplots(1, panels, squeeze=False)[0])


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
