from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from monai.bundle import ConfigParser
from optuna.trial import TrialState

from medsynth.errors import MedsynthError
from medsynth.tuning import trials
from medsynth.tuning.search_space import SearchSpace, read_search_space
from medsynth.tuning.study import Plan, Tuning
from medsynth.tuning.study_report import (
    compared_with_defaults,
    printed_table,
    training_command,
    trial_rows,
    write_report,
)

ROOT = Path(__file__).parents[2]
SPACE = {
    "objectives": {"loss": "minimize", "variety": "maximize"},
    "keys": {"x": {"low": -1.0, "high": 1.0}, "sub#n": {"low": 1, "high": 4}, "list": {"choices": [[1, 2], [3]]}},
}
CONFIG = {"x": 0.9, "sub": {"n": 2}, "list": [3], "max_epochs": 3}
TRAINER = """
import ast, json, os, pathlib, signal, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
files = ast.literal_eval(options["--config_file"])
values = json.loads(pathlib.Path(files[1]).read_text())
folder = pathlib.Path(options["--output_dir"])
x, mood = values["x"], options.get("--mood", "")
path = folder / "metrics.csv"
done = path.read_text().count("\\n") - 1 if path.exists() else 0
def stop(*_):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if done <= 0:
    path.write_text("iteration,epoch,loss,variety\\n")
for epoch in range(max(done, 0) + 1, 4):
    if mood == "slow" and epoch == 2 and not (folder / "saved").exists():
        time.sleep(60)
    if mood == "nan" and x < 0:
        print("error: iteration 7: l1 is nan; the last checkpoint is kept: lower the learning rate", file=sys.stderr)
        sys.exit(1)
    if mood == "memory" and x < 0:
        raise MemoryError
    if mood == "wrong" and (x != 0.9 or "--first" in options):
        sys.exit("error: 'max_epoch': no such key")
    if mood == "killed" and x < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    with path.open("a") as file:
        file.write(f"{10 * epoch},{epoch},{x * x + 1 / epoch},{abs(x)}\\n")
    if mood == "watched":
        time.sleep(0.15)
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A study of a command that trains nothing, but validates as a run does."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(trials, "COMMAND", (sys.executable, str(tmp_path / "trainer.py")))
    monkeypatch.setattr(trials, "LOOK_EVERY", 0.02)
    bundle = tmp_path / "bundles" / "toy"
    bundle.mkdir(parents=True)
    (bundle / "train.json").write_text(json.dumps(CONFIG))
    (bundle / "tune.json").write_text(json.dumps(SPACE))

    def make(*overrides: str, objectives: tuple[str, ...] = ("loss",), seed: int = 0) -> Plan:
        space = read_search_space(bundle / "tune.json", bundle / "train.json")
        return Plan(bundle / "train.json", space, space.chosen(objectives), tmp_path / "study", overrides, seed)

    return make


def study(plan: Plan, count: int, storage: str = "study.log") -> Tuning:
    tuning = Tuning(plan, plan.output / storage)
    tuning.run(count)
    return tuning


def states(tuning: Tuning) -> list[TrialState]:
    return [trial.state for trial in tuning.study.trials]


def test_a_study_begins_with_the_settings_of_the_configuration_and_improves_them(plan):
    tuning = study(plan(), 12)
    first = tuning.study.trials[0]
    assert first.user_attrs["overlay"] == {"x": 0.9, "sub#n": 2, "list": [3]}
    assert first.value == pytest.approx(0.81 + 1 / 3)
    assert tuning.best().value < 0.4


def test_the_best_settings_are_an_overlay_that_the_configuration_takes(plan):
    tuning = study(plan(), 3)
    overlay = tuning.plan.output / "best.json"
    config = ConfigParser.load_config_files([tuning.plan.config, overlay])
    assert config["x"] == tuning.best().params["x"]
    assert config["sub"]["n"] == tuning.best().params["sub#n"]
    assert isinstance(config["list"], list)
    assert config["max_epochs"] == 3


def test_each_trial_has_a_run_folder_of_its_own(plan):
    output = study(plan(), 2).plan.output
    for name in ("000", "001"):
        files = {path.name for path in (output / "trials" / name).iterdir()}
        assert {"metrics.csv", "console.log", "tuned.json"} <= files


@pytest.mark.parametrize("storage", ["study.db", "study.log"])
def test_a_study_continues_from_its_storage_as_if_not_stopped(plan, tmp_path, storage):
    study(plan(), 2, storage)
    resumed = study(plan(), 4, storage)
    assert len(resumed.study.trials) == 4
    (tmp_path / "study").rename(tmp_path / "before")
    whole = study(plan(), 4, storage)
    assert [trial.params for trial in resumed.study.trials] == [trial.params for trial in whole.study.trials]


@pytest.mark.parametrize(("mood", "reason"), [("nan", "diverged"), ("memory", "out of memory"), ("killed", "killed")])
def test_a_trial_that_diverges_or_runs_out_of_memory_is_pruned_with_its_reason(plan, mood, reason):
    tuning = study(plan("--mood", mood), 6)
    lost = [trial for trial in tuning.study.trials if trial.params["x"] < 0]
    assert lost
    assert all(trial.state == TrialState.PRUNED and reason in trial.user_attrs["reason"] for trial in lost)
    assert TrialState.COMPLETE in states(tuning)


def test_the_command_with_the_best_has_the_study_s_data_but_not_its_short_trials(plan, tmp_path):
    found = plan("--datalist", "my data.json", "--max_epochs", "2", "--max_minutes=3", "--labels", "['a']")
    words = shlex.split(training_command(found, tmp_path / "runs/best"))
    assert words[5:] == [
        "--config_file", f"['{found.config}','{found.output / 'best.json'}']", "--output_dir", f"{tmp_path}/runs/best",
        "--datalist", "my data.json", "--labels", "['a']",
    ]  # fmt: skip


def test_it_is_said_whether_the_bundle_s_own_settings_won(plan):
    assert "own settings are the best" in compared_with_defaults(study(plan(), 1))


def test_a_better_trial_is_named_beside_the_bundle_s_own(plan):
    tuning = study(plan("--mood", "x"), 8)
    best = tuning.best()
    assert best.number > 0
    said = f"trial {best.number} is the best: loss {best.values[0]:.4g}, and 1.143 with the bundle's own settings"
    assert compared_with_defaults(tuning) == said


def test_a_trial_worse_than_the_median_is_stopped_after_it_has_saved(plan, monkeypatch):
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda: optuna.pruners.ThresholdPruner(upper=1.5))
    tuning = study(plan("--mood", "watched"), 1)  # 0.81 + 1 in its first epoch
    (trial,) = tuning.study.trials
    assert trial.state == TrialState.PRUNED
    assert "epoch 1" in trial.user_attrs["reason"]
    assert (tuning.plan.output / "trials" / "000" / "saved").exists()


def test_three_equal_failures_in_a_row_end_the_study_with_their_reason(plan):
    with pytest.raises(MedsynthError, match="3 trials in a row failed for the same reason: 'max_epoch': no such key"):
        study(plan("--mood", "wrong"), 10)


def test_a_first_trial_that_fails_ends_the_study_which_then_takes_corrected_overrides(plan):
    with pytest.raises(MedsynthError, match="bundle's own settings, failed: 'max_epoch': no such key"):
        study(plan("--mood", "wrong", "--first", "too"), 10)
    tuning = study(plan(), 2)
    assert states(tuning) == [TrialState.FAIL, TrialState.COMPLETE]
    assert tuning.best().user_attrs["overlay"] == {"x": 0.9, "sub#n": 2, "list": [3]}
    assert "failed: 'max_epoch': no such key" in printed_table(tuning)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard even where the tests were started in the background, which is deaf to it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_an_interrupted_trial_continues_when_the_study_does(plan, interruptible):
    plan = plan("--mood", "slow")
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        study(plan, 1)
    folder = plan.output / "trials" / "000"
    assert (folder / "saved").exists()
    tuning = study(plan, 1)
    interrupted, resumed = tuning.study.trials
    assert (interrupted.state, interrupted.user_attrs["reason"]) == (TrialState.FAIL, "interrupted")
    assert (resumed.state, resumed.params) == (TrialState.COMPLETE, interrupted.params)
    assert len(trials.validations(folder)) == 3
    assert not (plan.output / "trials" / "001").exists()


def test_a_trial_of_a_killed_worker_is_continued_by_the_next_one(plan):
    plan = plan()
    tuning = Tuning(plan, plan.output / "study.log")
    abandoned = tuning.study.ask()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    plan.space.suggest(abandoned)
    abandoned.set_user_attr("folder", "000")
    abandoned.set_user_attr("worker", [os.uname().nodename, process.pid])
    resumed = study(plan, 1)
    assert states(resumed) == [TrialState.FAIL, TrialState.COMPLETE]
    assert resumed.study.trials[1].user_attrs["folder"] == "000"


def test_a_run_does_not_outlive_its_study(plan, tmp_path):
    plan = plan("--mood", "slow")
    code = (
        "import sys; from pathlib import Path; from medsynth.tuning import trials;"
        f"trials.COMMAND = {trials.COMMAND!r};"
        f"folder, overrides = Path({str(tmp_path / 'run')!r}), {list(plan.overrides)!r};"
        "trials.run_trial(Path('c.json'), {'x': 0.5}, folder, overrides, lambda row: False)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    for _ in range(600):
        if trials.validations(tmp_path / "run"):
            break
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    for _ in range(100):
        if (tmp_path / "run" / "saved").exists():
            break
        time.sleep(0.05)
    assert (tmp_path / "run" / "saved").exists()


def test_two_objectives_give_a_front_and_a_trial_between_its_ends(plan):
    tuning = study(plan(objectives=("loss", "variety")), 10)
    front = tuning.study.best_trials
    assert len(front) > 2  # a smaller x is less loss and less variety
    losses = sorted(trial.values[0] for trial in front)
    assert losses[0] < tuning.best().values[0] < losses[-1]
    names = {path.name for path in write_report(tuning)}
    assert {"trials.csv", "pareto.png", "history_loss.png", "history_variety.png"} <= names


def test_the_table_has_every_trial_with_its_settings_best_first(plan):
    tuning = study(plan(), 4)
    files = {path.name for path in write_report(tuning)}
    assert {"trials.csv", "history.png", "importance.png"} <= files
    with (tuning.plan.output / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses)
    assert [row["trial"] for row in rows] == [str(row["trial"]) for row in trial_rows(tuning)]
    assert all(float(row["loss"]) == pytest.approx(float(row["x"]) ** 2 + 1 / 3) for row in rows)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--x", "1"), "part of the search space"),
        (("--sub::n=1",), "part of the search space"),
        (("--output_dir", "there"), "set by the study"),
    ],
)
def test_overrides_of_what_the_study_sets_are_refused(plan, overrides, message):
    with pytest.raises(MedsynthError, match=message):
        study(plan(*overrides), 1)


def test_a_study_of_other_data_or_objectives_is_not_continued(plan):
    study(plan(), 1)
    with pytest.raises(MedsynthError, match="cannot be compared"):
        study(plan("--mood", "watched"), 2)
    with pytest.raises(MedsynthError, match="cannot be"):
        study(plan(objectives=("variety",)), 2)


def test_a_storage_that_is_something_else_is_refused_in_one_line(plan):
    plan = plan()
    plan.output.mkdir()
    (plan.output / "study.db").write_text("no database")
    with pytest.raises(MedsynthError, match="cannot be used"):
        Tuning(plan, plan.output / "study.db")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"y": {"low": 0, "high": 1}}, "'y' is not a key"),
        ({"max_epoch": {"low": 0, "high": 1}}, "the nearest is 'max_epochs'"),
        ({"x": {"low": 2, "high": 1}}, "the smaller one as low"),
        ({"x": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"x": {"from": 0}}, "give"),
        ({"x": {"choices": []}}, "no choices"),
        ({}, "needs 'objectives' and 'keys'"),
    ],
)
def test_an_impossible_search_space_is_refused(tmp_path, keys, message):
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tune.json").write_text(json.dumps({"objectives": {"loss": "minimize"}, "keys": keys}))
    with pytest.raises(MedsynthError, match=message):
        read_search_space(tmp_path / "tune.json", tmp_path / "train.json")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("bundles/*/tune*.json")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_search_space_of_each_bundle_holds_its_defaults(path):
    space = read_search_space(path, path.with_name(path.name.replace("tune", "train", 1)))
    assert isinstance(space, SearchSpace)
    keys = json.loads(path.read_text())["keys"]
    fixed = {key for key, values in keys.items() if len(values.get("choices", "ab")) == 1}  # for tuning, another value
    assert set(space.first_trial()) == set(keys) - fixed
