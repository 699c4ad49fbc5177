"""The folder that a report goes to: metrics.json, metrics.csv, figures/, report.html, provenance.json."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.page import Page
from medsynth.storage import disk_errors, write_bytes, write_text

PACKAGES = ("medsynth", "monai", "torch", "numpy", "scikit-learn", "scikit-image")
BESIDE_EACH = ("split", "patients", "seed", "data_range", "mask")  # what a number alone does not say


class ReportFolder:
    """Where an evaluation is written to, all of it at its end.

    Args:
        folder: it need not exist.
        overwrite: replace the report of an earlier evaluation; if false, a folder that has one is refused.

    Raises:
        MedsynthError: there is a report already.
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        found = [name for name in ("report.html", "metrics.json") if (self.folder / name).exists()]
        if found and not overwrite:
            raise MedsynthError(
                f"{self.folder / found[0]} is there already: give another output_dir, or --overwrite true"
            )

    def write(
        self, measures: Sequence[Measure], rows: Sequence[dict[str, Any]], page: Page, facts: dict[str, Any]
    ) -> None:
        """Write the report.

        Args:
            measures: for metrics.json; none of them, no such file.
            rows: for metrics.csv, one a subject.
            facts: for provenance.json, and added to each measure of metrics.json: those of `BESIDE_EACH`.
        """
        shared = {name: facts[name] for name in BESIDE_EACH if name in facts}
        table = {measure.name: _finite(measure.to_dict()) | shared for measure in measures}
        figures = _figures(page)
        with disk_errors(self.folder):
            (self.folder / "figures").mkdir(parents=True, exist_ok=True)
            for left in (self.folder / "figures").glob("*.png"):
                left.unlink()
        for figure in figures:
            write_bytes(self.folder / "figures" / f"{figure.name}.png", figure.png)
        write_text(self.folder / "metrics.csv", as_csv(rows))
        write_text(self.folder / "provenance.json", json.dumps(facts, indent=4, default=str) + "\n")
        write_text(self.folder / "report.html", page.html())
        if table:
            write_text(self.folder / "metrics.json", json.dumps(table, indent=4, allow_nan=False) + "\n")


def provenance() -> dict[str, Any]:
    """Versions, date and command: what it takes to make a report again."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "command": sys.argv,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A table whose columns are the names that any row has; missing values are empty."""
    import pandas as pd

    return pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Without the name, and null for what JSON has no number for, such as the PSNR of equal images."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
        if name != "name"
    }


def _figures(page: Page) -> list[Figure]:
    return [
        figure
        for section in page.sections
        for block in section.blocks
        if block.kind == "gallery"
        for figure in block.figures
    ]
