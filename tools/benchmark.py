"""Measure this project against what is there already, both in one run on this machine.

python tools/benchmark.py data
python tools/benchmark.py train vaegan --peer
python tools/benchmark.py metrics
python tools/benchmark.py translation
python tools/benchmark.py superres
python tools/benchmark.py stylegan
python tools/benchmark.py vqvae
python tools/benchmark.py priors
"""

from __future__ import annotations

import argparse

from benchmarks import data, metrics, priors, stylegan, superres, train, translation, vqvae

from medsynth.errors import run_tool

SUBJECTS = (data, train, metrics, translation, superres, stylegan, vqvae, priors)
"""Modules with `add_options(parsers)`, which adds a subcommand whose `run` takes the parsed options."""


def main() -> None:
    """Pass the command line on to the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parsers = parser.add_subparsers(required=True, metavar="subject")
    for subject in SUBJECTS:
        subject.add_options(parsers)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    run_tool(main)
