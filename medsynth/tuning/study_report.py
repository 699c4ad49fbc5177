"""What a study found, as a table and as plots."""

from __future__ import annotations

import io
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna.trial import FrozenTrial, TrialState

from medsynth.evaluation.report.folder import as_csv
from medsynth.storage import write_bytes, write_text
from medsynth.tuning.study import INTERRUPTED, Plan, Tuning

LENGTHS = ("max_epochs", "max_minutes", "epoch_length")  # of a trial, which is shorter than a training
SHOWN = 10  # rows of the printed table
FAILURES_SHOWN = 5  # different reasons


def write_report(tuning: Tuning) -> list[Path]:
    """Write trials.csv, and plots of history, importance and, of two objectives, the Pareto front.

    Returns: the files. Plots that need more trials are left out.
    """
    output = tuning.plan.output
    write_text(output / "trials.csv", as_csv(trial_rows(tuning)))
    written = [output / "trials.csv"]
    for name, draw in _plots(tuning).items():
        picture = _picture(draw)
        if picture is not None:
            write_bytes(output / f"{name}.png", picture)
            written.append(output / f"{name}.png")
    return written


def trial_rows(tuning: Tuning) -> list[dict[str, Any]]:
    """One row a trial, complete ones first, best first."""
    first = tuning.study.directions[0]
    sign = 1 if first == optuna.study.StudyDirection.MINIMIZE else -1
    trials = [trial for trial in tuning.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    trials.sort(key=lambda trial: (trial.values is None, sign * trial.values[0] if trial.values else trial.number))
    return [
        {
            "trial": trial.number,
            "state": _state(trial),
            **dict(zip(tuning.plan.objectives, trial.values or [], strict=False)),
            "epochs": trial.user_attrs.get("epochs", ""),
            "minutes": trial.user_attrs.get("minutes", ""),
            **trial.user_attrs.get("overlay", {}),
            "reason": trial.user_attrs.get("reason", ""),
            "folder": f"trials/{trial.user_attrs.get('folder', '')}",
        }
        for trial in trials
    ]


def printed_table(tuning: Tuning) -> str:
    """The best trials and how the others ended, for a terminal."""
    rows = trial_rows(tuning)
    columns = ["trial", "state", *tuning.plan.objectives, "epochs", "minutes", *tuning.plan.space.keys]
    cells = [columns, *([_shown(row.get(name, "")) for name in columns] for row in rows[:SHOWN])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    reasons = dict.fromkeys(row["reason"] for row in rows if row["state"] == "fail")
    failed = [f"failed: {reason}" for reason in list(reasons)[:FAILURES_SHOWN]]
    left_out = f"... and {len(rows) - SHOWN} more in trials.csv" if len(rows) > SHOWN else ""
    return "\n".join([*lines, left_out, *failed]).rstrip()


def compared_with_defaults(tuning: Tuning) -> str:
    """Whether the best trial has other settings than the bundle's own, and by how much it is better."""
    best, own = tuning.best(), tuning.plan.space.first_trial()
    if best.params == own:
        return "the bundle's own settings are the best: there is nothing to change"
    name = next(iter(tuning.plan.objectives))
    known = [trial for trial in tuning.study.get_trials(deepcopy=False) if trial.params == own and trial.values]
    theirs = f"{_shown(known[0].values[0])} with the bundle's own settings" if known else "no complete trial of the own"
    return f"trial {best.number} is the best: {name} {_shown(best.values[0])}, and {theirs}"


def training_command(plan: Plan, output_dir: Path) -> str:
    """Trains with the best settings, on the data of the study, as long as the configuration says."""
    words = ["python", "-m", "monai.bundle", "run", "training"]
    words += ["--config_file", f"['{plan.config}','{plan.output / 'best.json'}']", "--output_dir", str(output_dir)]
    kept, skip = [], False
    for word in plan.overrides:
        if word.startswith("--"):
            skip = word[2:].partition("=")[0] in LENGTHS
        if not skip:
            kept.append(word)
    return shlex.join([*words, *kept])


def _state(trial: FrozenTrial) -> str:
    return INTERRUPTED if trial.user_attrs.get("reason") == INTERRUPTED else trial.state.name.lower()


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plots(tuning: Tuning) -> dict[str, Callable[[], Any]]:
    draw = optuna.visualization.matplotlib
    study, names = tuning.study, list(tuning.plan.objectives)
    if len(names) == 1:
        return {
            "history": lambda: draw.plot_optimization_history(study, target_name=names[0]),
            "importance": lambda: draw.plot_param_importances(study, target_name=names[0]),
        }
    plots = {}
    for i, name in enumerate(names):
        options = {"target": lambda trial, i=i: trial.values[i], "target_name": name}
        plots[f"history_{name}"] = lambda options=options: draw.plot_optimization_history(study, **options)
        plots[f"importance_{name}"] = lambda options=options: draw.plot_param_importances(study, **options)
    if len(names) == 2:
        plots["pareto"] = lambda: draw.plot_pareto_front(study, target_names=names)
    return plots


def _picture(draw: Callable[[], Any]) -> bytes | None:
    """A plot as PNG; None where the trials are too few or too similar for it."""
    with warnings.catch_warnings(), plt.rc_context({"figure.figsize": (9, 5), "font.size": 10}):
        warnings.simplefilter("ignore")
        try:
            axes = draw()
        except (ValueError, RuntimeError, ZeroDivisionError):
            plt.close("all")
            return None
        figure = axes.figure
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
        plt.close(figure)
    return content.getvalue()
