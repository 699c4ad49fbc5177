"""Put evaluated runs side by side on one page.

python tools/compare.py runs/vaegan runs/stylegan --output runs/comparison
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medsynth.errors import MedsynthError, refuse_existing, run_tool


def main() -> None:
    """Read the evaluations, write the page, and print its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders that contain evaluation/, or evaluation folders"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/comparison"), help="folder for the page and the table"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a comparison that is there already")
    options = parser.parse_args()
    for folder in options.runs:
        if not folder.is_dir():
            raise MedsynthError(f"there is no folder {folder}: give those of runs that were evaluated")
    if not options.overwrite:
        refuse_existing(options.output / "report.html", "give another --output, or --overwrite to replace it")
    from medsynth.evaluation.report.compare import compare  # after parsing: help and errors come at once
    from medsynth.evaluation.report.folder import ReportFolder

    compare(options.runs, ReportFolder(options.output, options.overwrite))
    print(f"written to {options.output / 'report.html'}")


if __name__ == "__main__":
    run_tool(main)
