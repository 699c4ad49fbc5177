"""Measure this project against what is there already, both in one run on this machine.

python tools/benchmark.py data
python tools/benchmark.py train vaegan --peer
python tools/benchmark.py metrics
python tools/benchmark.py translation
python tools/benchmark.py superres
python tools/benchmark.py stylegan
python tools/benchmark.py vqvae
python tools/benchmark.py priors
python tools/benchmark.py scaling superres
python tools/benchmark.py all
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import data, metrics, priors, scaling, stylegan, superres, train, translation, vqvae

from medsynth.errors import run_tool

SUBJECTS = (data, train, metrics, translation, superres, stylegan, vqvae, priors, scaling)
"""Modules with `add_options(parsers)`, which adds a subcommand whose `run` takes the parsed options."""

EVERYTHING = {
    subject.__name__.rpartition(".")[2]: ["vaegan", "--peer"] if subject is train else [] for subject in SUBJECTS
}
"""Subjects of `all`, and their arguments."""


def main() -> None:
    """Pass the command line on to the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parsers = parser.add_subparsers(required=True, metavar="subject")
    for subject in SUBJECTS:
        subject.add_options(parsers)
    parsers.add_parser("all", help="every subject as it comes, one after the other").set_defaults(run=run_all)
    options = parser.parse_args()
    options.run(options)


def run_all(options: argparse.Namespace) -> None:
    """Each subject in a process of its own, so that none finds the memory or the threads of another."""
    for subject, arguments in EVERYTHING.items():
        print(f"\n## {subject}\n", flush=True)
        done = subprocess.run([sys.executable, __file__, subject, *arguments])
        if done.returncode:
            print(f"{subject} failed, see above", flush=True)


if __name__ == "__main__":
    run_tool(main)
