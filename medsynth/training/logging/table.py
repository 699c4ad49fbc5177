"""A CSV file that grows with a run and can be cut back to the iteration from which the run resumes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from medsynth.storage import disk_errors, write_text


class Table:
    """Rows whose first column is `iteration`; a column that comes later is empty in the rows before.

    Args:
        path: of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, iteration: int) -> None:
        """Drop the rows after `iteration`, and a last row that was not completely written."""
        if not self.path.exists():
            return
        whole_lines = self.path.read_text().rpartition("\n")[0]
        header, *rows = [line.split(",") for line in whole_lines.split("\n")]
        kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= iteration]
        write_text(self.path, "".join(",".join(row) + "\n" for row in ([header, *kept] if kept else [])))

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; columns it lacks stay empty."""
        # 0.05 ms a row; with pandas 0.8 ms
        self._widen(row)
        with disk_errors(self.path), self.path.open("a+", newline="") as file:
            file.seek(0)
            columns = file.readline().strip().split(",")
            text = io.StringIO()
            writer = csv.DictWriter(text, list(row) if columns == [""] else columns, lineterminator="\n")
            if columns == [""]:
                writer.writeheader()
            writer.writerow(row)
            file.write(text.getvalue())

    def _widen(self, row: dict[str, Any]) -> None:
        """Add the columns that the file lacks."""
        if not self.path.exists():
            return
        header, *lines = self.path.read_text().splitlines() or [""]
        new = [name for name in row if name not in header.split(",")]
        if header and new:
            text = [",".join([header, *new]), *(line + "," * len(new) for line in lines)]
            write_text(self.path, "\n".join(text) + "\n")

    def read(self) -> dict[str, list[float]]:
        """Column by column; an empty cell is NaN."""
        import pandas as pd

        if not self.path.stat().st_size:
            return {}
        return pd.read_csv(self.path, dtype=float, float_precision="round_trip").to_dict("list")
