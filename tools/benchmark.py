"""Measure this project against other software, both in one run on this machine.

python tools/benchmark.py data
python tools/benchmark.py train vaegan --peer
python tools/benchmark.py metrics
python tools/benchmark.py translation
python tools/benchmark.py superres
python tools/benchmark.py stylegan
python tools/benchmark.py vqvae
python tools/benchmark.py priors
python tools/benchmark.py volumes
python tools/benchmark.py scaling superres
python tools/benchmark.py start
python tools/benchmark.py all
"""

from __future__ import annotations

import argparse
import ast
import importlib
import subprocess
import sys
from pathlib import Path

from medsynth.errors import run_tool

SUBJECTS = (
    "data", "train", "metrics", "translation", "superres", "stylegan", "vqvae", "priors", "volumes", "scaling", "start"
)  # fmt: skip
"""Modules of `benchmarks` with `add_options(parsers)`, which adds a subcommand whose `run` takes the parsed options."""

ARGUMENTS = {"train": ["vaegan", "--peer"]}  # of the subjects of `all` that need some


def main() -> None:
    """Pass the command line on to the subcommand; only its module is imported, since imports take seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parsers = parser.add_subparsers(required=True, metavar="subject")
    for subject in SUBJECTS:
        if sys.argv[1:2] == [subject]:
            importlib.import_module(f"benchmarks.{subject}").add_options(parsers)
        else:
            parsers.add_parser(subject, help=purpose(subject))
    parsers.add_parser("all", help="every subject with its defaults, one after the other").set_defaults(run=run_all)
    options = parser.parse_args()
    options.run(options)


def purpose(subject: str) -> str:
    """First line of a module's docstring, without importing it."""
    source = Path(__file__).with_name("benchmarks") / f"{subject}.py"
    return ast.get_docstring(ast.parse(source.read_text())).splitlines()[0]


def run_all(options: argparse.Namespace) -> None:
    """Each subject in a process of its own, so that none is affected by the memory or threads of another."""
    for subject in SUBJECTS:
        print(f"\n## {subject}\n", flush=True)
        done = subprocess.run([sys.executable, __file__, subject, *ARGUMENTS.get(subject, [])])
        if done.returncode:
            print(f"{subject} failed, see above", flush=True)


if __name__ == "__main__":
    run_tool(main)
