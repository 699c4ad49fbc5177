"""CPU seconds from a run's command line to the line that reports its mistake: MONAI's share and ours."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from medsynth.errors import MedsynthError

BUNDLES = Path(__file__).parents[2] / "bundles"
TIMED_RUN = """
import atexit, runpy, sys, time

class FirstImport:
    seconds = None

    def find_spec(self, name, path=None, target=None):
        if self.seconds is None and name.partition(".")[0] == "medsynth":
            self.seconds = time.process_time()

first = FirstImport()
sys.meta_path.insert(0, first)
atexit.register(lambda: print("SECONDS", first.seconds, time.process_time()))
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""
"""`python -m monai.bundle`, which also prints the CPU seconds until the first import of medsynth, and until its end."""


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `start`."""
    parser = parsers.add_parser("start", help=__doc__)
    parser.add_argument("configs", type=Path, nargs="*", help="default: train.json of every bundle")
    parser.add_argument("--turns", type=int, default=2, help="the fastest counts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, and print the table."""
    print(f"{'misspelt override of':<36} {'MONAI, CPU-s':>13} {'ours, CPU-s':>12}")
    for config in options.configs or sorted(BUNDLES.glob("*/train.json")):
        turns = [seconds_to_refusal(config) for _ in range(options.turns)]
        monai, ours = (min(times) for times in zip(*turns, strict=True))
        print(f"{config.parent.name + '/' + config.name:<36} {monai:>13.2f} {ours:>12.2f}")


def seconds_to_refusal(config: Path) -> tuple[float, float]:
    """CPU seconds until medsynth is first imported, and from there to the refusal of `--max_epoch`.

    Raises:
        MedsynthError: it was not refused.
    """
    command = ["run", "training", "--config_file", str(config), "--max_epoch", "1"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", TIMED_RUN, *command], capture_output=True, text=True, env=environment)
    if "error: 'max_epoch': no such key" not in done.stderr:
        raise MedsynthError(f"{config} did not refuse --max_epoch: {done.stderr.strip()[-300:]}")
    first, end = map(float, re.search(r"^SECONDS (\S+) (\S+)$", done.stdout, re.MULTILINE).groups())
    return first, end - first
