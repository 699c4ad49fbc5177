"""Reading what a run wrote."""

from __future__ import annotations

import csv
from pathlib import Path


def texts(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def rows(path: Path) -> list[dict[str, float]]:
    """Those of a CSV file of numbers; what is empty is NaN."""
    return [{name: float(value or "nan") for name, value in row.items()} for row in texts(path)]


def losses(folder: Path) -> list[dict[str, str]]:
    """What is in losses.csv, the clock left out."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in texts(folder / "losses.csv")]
