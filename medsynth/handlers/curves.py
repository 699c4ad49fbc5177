"""Loss curves as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medsynth.storage import write_bytes

_NOT_LOSSES = ("iteration", "epoch", "seconds", "images")


def draw_losses(columns: dict[str, list[float]], path: Path) -> None:
    """One small plot a loss over the iterations, the raw rows pale and their running mean on top.

    Args:
        columns: of `losses.csv`.
        path: of the PNG.
    """
    names = [name for name in columns if name not in _NOT_LOSSES]
    if not names or not columns["iteration"]:
        return
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
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
    write_bytes(path, picture.getvalue())


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and those before it in a window of a twentieth of all; the length stays."""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
