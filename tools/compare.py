"""Put evaluated runs side by side on one page.

python tools/compare.py runs/vaegan runs/stylegan --output runs/comparison
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medsynth.errors import run_tool
from medsynth.evaluation.report.compare import compare
from medsynth.evaluation.report.folder import ReportFolder


def main() -> None:
    """Read the evaluations, write the page, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders with evaluation/ in them, or evaluation folders"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/comparison"), help="folder for the page and the table"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a comparison that is there already")
    options = parser.parse_args()
    compare(options.runs, ReportFolder(options.output, options.overwrite))
    print(f"written to {options.output / 'report.html'}")


if __name__ == "__main__":
    run_tool(main)
