"""Training on one and on two processes of one thread each: images a second, from the runs' own tables."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from medsynth.errors import MedsynthError
from medsynth.training.logging.table import Table

ROOT = Path(__file__).parents[2]
WARM_UP_ROWS = 2  # of losses.csv, which are not counted: first steps choose algorithms and fill caches


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `scaling`."""
    parser = parsers.add_parser("scaling", help="images a second of training on one and on two processes")
    parser.add_argument("systems", nargs="*", default=["superres"], help="folders of bundles/")
    parser.add_argument("--minutes", type=float, default=1.5, help="of each run, preparation included")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train each system on the built-in phantom twice, and print the table."""
    print(f"{'system':>12} {'1 process':>12} {'2 processes':>12} {'ratio':>6}   images/s, one thread a process")
    for system in options.systems:
        one, two = (images_per_second(system, processes, options.minutes) for processes in (1, 2))
        print(f"{system:>12} {one:>12.1f} {two:>12.1f} {two / one:>6.2f}", flush=True)


def images_per_second(system: str, processes: int, minutes: float) -> float:
    """Of training with the bundle's defaults for so long, without validation and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["training", "--config_file", f"bundles/{system}/train.json", "--output_dir", f"{folder}/run"]
        arguments += ["--max_epochs", "100000", "--max_minutes", str(minutes), "--sample_epochs", "100000"]
        arguments += ["--val_interval", "100000", "--device", "cpu"]
        process = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            + ["-m", "monai.bundle", "run", *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise MedsynthError(f"training {system} on {processes} process(es) failed: {process.stderr[-2000:]}")
        return rate(Table(Path(folder) / "run" / "losses.csv").read())


def rate(columns: dict[str, list[float]]) -> float:
    """Images a second between the first rows and the last of `losses.csv`, all processes together."""
    rows = len(columns["seconds"])
    if rows < WARM_UP_ROWS + 2:
        raise MedsynthError(f"the run wrote {rows} rows of losses: give it more --minutes")
    first = WARM_UP_ROWS - 1
    return (columns["images"][-1] - columns["images"][first]) / (columns["seconds"][-1] - columns["seconds"][first])
