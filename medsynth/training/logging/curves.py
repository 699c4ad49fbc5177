"""The columns of a table as curves in a picture."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

_NOT_DRAWN = ("iteration", "epoch", "seconds", "images")


def curves(columns: dict[str, list[float]]) -> bytes:
    """One small plot per column over the iterations, the raw rows pale and their running mean on top, as a PNG.

    Args:
        columns: of `losses.csv` or `metrics.csv`; at least one besides iteration, epoch, seconds and images.
    """
    names = [name for name in columns if name not in _NOT_DRAWN]
    rows = -(-len(names) // 3)
    height = 2.6 * rows
    figure = Figure(figsize=(12, height))  # a layout that fits itself to its labels takes twice the time
    figure.subplots_adjust(0.05, 0.45 / height, 0.99, 1 - 0.3 / height, wspace=0.18, hspace=0.4)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, min(3, len(names)), i + 1)
        iterations, values = np.array(columns["iteration"]), np.array(columns[name])
        known = np.isfinite(values)
        axes.plot(iterations[known], values[known], color="tab:blue", alpha=0.3, linewidth=1)
        axes.plot(iterations[known], _running_mean(values[known]), color="tab:blue")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and those before it in a window of a twentieth of all; the length stays."""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
