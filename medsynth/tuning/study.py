"""A study: trials of a training configuration, each chosen by the results of earlier ones.

Reference: Bergstra et al., tree-structured Parzen estimators, NeurIPS 2011; Optuna, arXiv:1907.10902.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from medsynth.errors import MedsynthError
from medsynth.storage import disk_errors, write_text
from medsynth.tuning.search_space import SearchSpace
from medsynth.tuning.trials import Outcome, Row, run_trial

INTERRUPTED = "interrupted"
SAME_FAILURES = 3  # failures in a row for one reason stop a study
_OURS = ("config_file", "output_dir", "resume")


@dataclass(frozen=True)
class Plan:
    """What a study does.

    Attributes:
        config: training configuration of a bundle.
        space: what may change.
        objectives: column of metrics.csv -> direction. A trial's value is its best; with several objectives, those of
            the validation at which the first was best.
        output: folder for `trials/`, `best.json`, plots and tables.
        overrides: of the command line of every trial.
        seed: of the choice of trials.
    """

    config: Path
    space: SearchSpace
    objectives: dict[str, str]
    output: Path
    overrides: Sequence[str]
    seed: int

    def check(self) -> None:
        """Refuse overrides of what a study sets itself.

        Raises:
            MedsynthError: such an override.
        """
        given = [text[2:].partition("=")[0].replace("::", "#") for text in self.overrides if text.startswith("--")]
        for key in given:
            if key in self.space.keys:
                raise MedsynthError(f"--{key} is part of the search space: take it out there, or don't set it")
            if key in _OURS:
                raise MedsynthError(f"--{key} is set by the study: leave it out")


class Tuning:
    """Trials until there are enough, in a storage that workers can share.

    Args:
        storage: `.db` for SQLite, anything else for a journal, which can lie on a network disk.

    Raises:
        MedsynthError: the storage cannot be opened, or holds another study.
    """

    def __init__(self, plan: Plan, storage: Path) -> None:
        plan.check()
        self.plan = plan
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with disk_errors(storage):
            storage.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.study = optuna.create_study(
                storage=_open_storage(storage),
                study_name=f"{plan.config.parent.name}/{plan.config.stem}",
                directions=list(plan.objectives.values()),
                pruner=optuna.pruners.MedianPruner(),
                load_if_exists=True,
            )
        except Exception as error:  # of whichever database
            reason = str(error).strip().partition("\n")[0]
            raise MedsynthError(f"storage {storage} cannot be used ({reason}): give another --storage") from error
        self._require_same_question(storage)
        self._requeue_abandoned()
        self.study.enqueue_trial(plan.space.first_trial(), skip_if_exists=self._has_run())

    def run(self, trials: int) -> None:
        """Run trials until the study has that many, by all its workers together.

        Raises:
            MedsynthError: the first trial failed, or several in a row for the same reason.
            KeyboardInterrupt: the current trial continues when the study does.
        """
        failures: list[str] = []
        with tqdm(total=trials, initial=min(self._begun(), trials), desc="trials") as bar:
            while self._begun() < trials:
                outcome = self._run_one(bar)
                bar.update()
                failures = [*failures, outcome.reason] if outcome.state == "failed" else []
                self.write_best()
                if failures and not self._has_run():
                    raise MedsynthError(f"the first trial, which has the bundle's own settings, failed: {failures[-1]}")
                if len(failures) >= SAME_FAILURES and len(set(failures[-SAME_FAILURES:])) == 1:
                    raise MedsynthError(f"{SAME_FAILURES} trials in a row failed for the same reason: {failures[-1]}")

    def best(self) -> FrozenTrial | None:
        """The best trial; with several objectives, that of the front which is nearest to the best of each."""
        front = self.study.best_trials
        if not front:
            return None
        columns = []
        for i, direction in enumerate(self.plan.objectives.values()):
            values = [trial.values[i] if direction == "minimize" else -trial.values[i] for trial in front]
            spread = max(values) - min(values) or 1.0
            columns.append([(value - min(values)) / spread for value in values])
        distances = [math.hypot(*point) for point in zip(*columns, strict=True)]
        return front[distances.index(min(distances))]

    def write_best(self) -> None:
        """Save the best trial's values as an overlay of the training configuration."""
        best = self.best()
        if best is not None:
            write_text(self.plan.output / "best.json", json.dumps(best.user_attrs["overlay"], indent=4) + "\n")

    def _run_one(self, bar: tqdm) -> Outcome:
        trial = self.study.ask()
        # one seed a trial: the same choice by any worker, however often the study was stopped
        self.study.sampler = optuna.samplers.TPESampler(seed=self.plan.seed + trial.number, multivariate=False)
        overlay = self.plan.space.suggest(trial)
        name = trial.user_attrs.get("folder", f"{trial.number:03d}")
        trial.set_user_attr("folder", name)
        trial.set_user_attr("overlay", overlay)
        trial.set_user_attr("worker", [socket.gethostname(), os.getpid()])
        started = time.monotonic()
        bar.set_postfix_str(f"trial {trial.number}")
        folder = self.plan.output / "trials" / name
        try:
            outcome = run_trial(
                self.plan.config, overlay, folder, self.plan.overrides, lambda row: self._report(trial, row, bar)
            )
        except BaseException as error:
            self._requeue(trial, INTERRUPTED if isinstance(error, KeyboardInterrupt) else repr(error))
            raise
        trial.set_user_attr("minutes", round((time.monotonic() - started) / 60, 2))
        trial.set_user_attr("epochs", outcome.rows[-1]["epoch"] if outcome.rows else 0)
        return self._record(trial, outcome)

    def _report(self, trial: Trial, row: Row, bar: tqdm) -> bool:
        """Report a validation to the pruner; whether to stop. With several objectives there is no pruning."""
        first = next(iter(self.plan.objectives))
        if first not in row:
            raise MedsynthError(f"metrics.csv has no column {first}: it has {', '.join(row)}")
        bar.set_postfix_str(f"trial {trial.number}, epoch {row['epoch']:g}, {first} {row[first]:.4g}")
        if len(self.plan.objectives) > 1 or math.isnan(row[first]):
            return False
        trial.report(row[first], step=int(row["epoch"]))
        return trial.should_prune()

    def _record(self, trial: Trial, outcome: Outcome) -> Outcome:
        values = self._values(outcome.rows)
        if outcome.state == "complete" and values is None:
            outcome = Outcome("failed", "ended without a validation: lower val_interval or raise max_epochs", [])
        elif outcome.state == "complete" and not all(map(math.isfinite, values)):
            outcome = Outcome("pruned", "diverged: its measures are not finite", outcome.rows)
        trial.set_user_attr("reason", outcome.reason)
        if outcome.state == "complete":
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL)
        return outcome

    def _values(self, rows: list[Row]) -> list[float] | None:
        """Of the objectives, at the validation where the first is best."""
        (first, direction), *_ = self.plan.objectives.items()
        missing = [name for name in self.plan.objectives if rows and name not in rows[-1]]
        if missing:
            raise MedsynthError(f"metrics.csv has no column {missing[0]}: it has {', '.join(rows[-1])}")
        if not rows:
            return None
        known = [row for row in rows if not math.isnan(row[first])] or rows
        best = (min if direction == "minimize" else max)(known, key=lambda row: row[first])
        return [best[name] for name in self.plan.objectives]

    def _has_run(self) -> bool:
        """Whether any trial has not failed."""
        return any(trial.state != TrialState.FAIL for trial in self.study.get_trials(deepcopy=False))

    def _begun(self) -> int:
        """Trials that count: all but those that wait or were interrupted."""
        return sum(
            trial.state != TrialState.WAITING and trial.user_attrs.get("reason") != INTERRUPTED
            for trial in self.study.get_trials(deepcopy=False)
        )

    def _requeue(self, trial: Trial, reason: str) -> None:
        """Mark a trial as failed; another of the same values continues its run folder."""
        attributes = trial.user_attrs
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
        if reason == INTERRUPTED:
            self.study.enqueue_trial(trial.params, user_attrs={"folder": attributes["folder"]})

    def _requeue_abandoned(self) -> None:
        """Requeue trials whose worker on this machine has ended."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, process = trial.user_attrs.get("worker", (None, None))
            if host == socket.gethostname() and not _is_alive(process):
                self._requeue(Trial(self.study, trial._trial_id), INTERRUPTED)

    def _require_same_question(self, storage: Path) -> None:
        question = {"objectives": self.plan.objectives, "overrides": list(self.plan.overrides)}
        known = self.study.user_attrs.get("question", question)
        for name, value in question.items():
            if known[name] != value and self._has_run():
                raise MedsynthError(
                    f"{storage} holds a study with {name} {_words(known[name])}, and now they are {_words(value)}: the "
                    "trials cannot be compared; use the earlier ones, or another --output"
                )
        self.study.set_user_attr("question", question)


def _words(value: Any) -> str:
    return " ".join(value) or "none"


def _open_storage(path: Path) -> optuna.storages.BaseStorage:
    if path.suffix == ".db":
        return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
