"""Search for better settings of a bundle: trial after trial, each a short training run.

python tools/tune.py bundles/vaegan --trials 50 -- --datalist data/mine.json --max_epochs 10
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from medsynth.errors import MedsynthError, run_tool


def main() -> None:
    """Run the missing trials, then print and plot the results of the study."""
    options, overrides = _arguments()
    config = options.bundle / "train.json" if options.bundle.is_dir() else options.bundle
    if not config.is_file():
        raise MedsynthError(f"there is no {config}: give a bundle's folder, such as bundles/vaegan, or its train.json")
    if options.trials < 1:
        raise MedsynthError(f"--trials {options.trials}: give 1 or more")
    import matplotlib  # after parsing: help and errors come at once

    from medsynth.tuning.search_space import read_search_space
    from medsynth.tuning.study import Plan, Tuning
    from medsynth.tuning.study_report import compared_with_defaults, printed_table, training_command, write_report

    space = read_search_space(config.with_name(config.name.replace("train", "tune", 1)), config)
    run = config.parent.name + config.stem.removeprefix("train")
    output = options.output or Path("runs") / f"{run}_study"
    plan = Plan(config, space, space.chosen(options.objectives), output, overrides, options.seed)
    tuning = Tuning(plan, options.storage or output / "study.db")
    matplotlib.use("agg")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tuning.run(options.trials)
    except KeyboardInterrupt:
        print("stopped; the same command continues the study", file=sys.stderr)
        raise
    finally:
        files = write_report(tuning)
        print(printed_table(tuning))
    print(f"written to {output}: {', '.join(path.name for path in files)}")
    if tuning.best() is not None:
        print(compared_with_defaults(tuning))
        print(f"to train with the best: {training_command(plan, Path('runs') / f'{run}_best')}")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """The options, and what stands after `--`."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="After --: overrides for every trial. Start the same command again to continue a study or to add a "
        "worker, on this machine or another with access to the same folders.",
    )
    parser.add_argument("bundle", type=Path, help="its folder, such as bundles/vaegan, or one of its train*.json")
    parser.add_argument("--trials", type=int, default=50, help="of the whole study (default: 50)")
    parser.add_argument(
        "--objectives", nargs="+", help="columns of metrics.csv that tune.json names; two: a Pareto front"
    )
    parser.add_argument("--output", type=Path, help="folder of the study (default: runs/<bundle>_study)")
    parser.add_argument("--storage", type=Path, help="study.db for SQLite (default), study.log for a journal")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of trials (default: 0)")
    return parser.parse_args(given[:cut]), given[cut + 1 :]


if __name__ == "__main__":
    run_tool(main)
