from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import monai.bundle
import pytest
from monai.bundle import ConfigParser
from tqdm import tqdm

from medsynth.errors import MedsynthError, as_line
from medsynth.run.config_checks import (
    check_config,
    read_json_words,
    refuse_missing_device,
    refuse_other_kinds,
    refuse_words,
    show_mistakes_in_one_line,
)

TOY = Path(__file__).parents[1] / "toy"


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("max_epoch", 2, "max_epochs"),
        ("hiden", 4, "hidden"),
        ("train__traner", 1, "train#trainer"),
        ("network_def__out_chanels", 3, "network_def#out_channels"),
        ("train__handlers__1__minute", 3, "train#handlers#1#minutes"),
        ("train__handlers__1__validater", 1, "train#handlers#1#validator"),
        ("hidden_channels", [2, 2], "network_def#hidden_channels"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one_and_nothing_is_written(toy_run, tmp_path, key, value, nearest):
    with pytest.raises(RuntimeError) as refused:
        toy_run(tmp_path / "run", **{key: value})
    line = as_line(refused.value)
    assert line.startswith(f"error: '{key.replace('__', '#')}': no such key in {TOY / 'train.json'}: ")
    assert line.endswith(f"the nearest valid key is '{nearest}'")
    assert not (tmp_path / "run").exists()


def test_a_key_unlike_any_other_is_refused_with_the_valid_ones(toy_run):
    with pytest.raises(RuntimeError) as refused:
        toy_run(validate__zzz=1)
    assert as_line(refused.value).endswith("valid keys there are evaluator")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ({"rate": "fast"}, "rate is 'fast': give a number, such as 0.5"),
        ({"rate": True}, "rate is True: give a number, such as 0.5"),
        ({"rate": float("nan")}, "rate is nan: give a number, such as 0.5"),
        ({"rate": float("inf")}, "rate is inf: give a number, such as 0.5"),
        ({"rate": -1}, "rate is -1, and negative: give another number, such as 0.5"),
        ({"inner": {"betas": [0.0, "x"]}}, "inner#betas#1 is 'x': give a number, such as 1"),
        ({"inner": {"on": "maybe"}}, "inner#on is 'maybe': give true or false"),
        ({"inner": {"on": 1}}, "inner#on is 1: give true or false"),
    ],
)
def test_another_kind_of_value_than_the_file_s_is_refused_with_its_key(override, line):
    given = {"rate": 0.5, "name": "x", "inner": {"betas": [0.0, 1], "on": False}}
    with pytest.raises(MedsynthError, match=f"^{re.escape(line)}$"):
        refuse_other_kinds(given, given | override)


class Weights:
    def __init__(self, l1: float, many: int | None = None, name: str = "x", either: int | str = 1) -> None: ...


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"weights": {"l1": "much"}}, "weights#l1 is 'much': give a number"),
        ({"weights": {"l1": float("inf")}}, "weights#l1 is inf: give a number"),
        ({"rate": "nan", "weights": {"l1": "@rate"}}, "rate is 'nan': give a number"),
        ({"list": [{"_target_": f"{__name__}.Weights", "many": "x"}]}, "list#0#many is 'x': give a number or null"),
    ],
)
def test_a_word_is_refused_where_a_parameter_takes_a_number_also_by_reference(config, line):
    config["weights"] = {"_target_": f"{__name__}.Weights", **config.get("weights", {})}
    with pytest.raises(MedsynthError, match=f"^{re.escape(line)}$"):
        refuse_words(config, ConfigParser().locator)


def test_numbers_null_and_expressions_are_taken_and_other_parameters_left_alone():
    weights = {"_target_": f"{__name__}.Weights", "l1": "$1 / 2", "many": None, "name": "y", "either": "z"}
    refuse_words({"weights": weights, "other": {"_target_": "$@slices", "l1": "x"}}, ConfigParser().locator)


@pytest.mark.parametrize("settings", [{"max_epochs": -1}, {"max_minutes": "two"}, {"network_def__dropout": "x"}])
def test_a_start_that_is_refused_leaves_no_folder(toy_run, tmp_path, settings):
    with pytest.raises(RuntimeError):
        toy_run(tmp_path / "new" / "run", **settings)
    assert not (tmp_path / "new").exists()


def test_what_is_said_before_the_training_begins_is_in_its_log_too(toy_run):
    assert "Starting" in (toy_run(max_epochs=1) / "train.log").read_text()


def test_numbers_null_expressions_and_other_shapes_are_taken():
    given = {"rate": 0.5, "count": 3, "name": "x", "inner": {"betas": [0.0, 1], "on": False}}
    refuse_other_kinds(given, {"rate": 1, "count": None, "name": 7, "inner": {"betas": [0.5], "on": "@name"}})
    refuse_other_kinds(given, {"rate": "$1 / 2", "count": 4.5, "name": "y", "inner": "@other"})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("max_minutes", "two", "max_minutes is 'two': give a number or null"),
        ("max_minutes", -1, "max_minutes is -1: give a number from 0, such as 60, or null"),
        ("max_epochs", "x", "max_epochs is 'x': give a number, such as "),
    ],
)
def test_a_word_for_a_number_is_refused_with_its_key(toy_run, key, value, line):
    with pytest.raises(RuntimeError) as refused:
        toy_run(**{key: value})
    assert as_line(refused.value).startswith(f"error: {line}")


def test_a_parameter_that_the_file_leaves_out_is_taken(toy_run):
    folder = toy_run(max_epochs=1, network_def__bias=False)
    assert json.loads((folder / "config.json").read_text())["network_def"]["bias"] is False


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_missing_device_is_refused_with_what_to_do(device):
    with pytest.raises(MedsynthError, match=f"device {device} cannot be used .* give --device cpu"):
        refuse_missing_device(device)


@pytest.mark.parametrize("device", ["cpu", None, "$'cuda' if torch.cuda.is_available() else 'cpu'", "@other"])
def test_an_existing_device_or_one_chosen_later_is_accepted(device):
    refuse_missing_device(device)


def test_a_new_key_that_another_refers_to_is_taken(toy_run):
    folder = toy_run(max_epochs=1, width=6, hidden="@width")
    assert json.loads((folder / "config.json").read_text())["width"] == 6


def test_a_mistake_on_the_command_line_is_one_line_and_status_1(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(TOY / "train.json")]
    process = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "file")],
        env=os.environ | {"PYTHONPATH": str(TOY), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr == f"error: cannot write {tmp_path / 'file'}: File exists: give another output_dir\n"


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_start_from_another_folder_ends_with_a_line_that_says_so(tmp_path, monkeypatch, capsys, elsewhere):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(tmp_path if elsewhere else root)
    config = str(root / "bundles/vaegan/inference.json")
    with pytest.raises(RuntimeError) as stopped:
        monai.bundle.run("inference", config_file=config, checkpoint=str(tmp_path / "none.pt"))
    sys.excepthook(stopped.type, stopped.value, stopped.tb)
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith("error: there is no model")
    hint = f"started in {tmp_path}, and relative paths of bundles begin in the root of the clone: start in {root}"
    assert more == ([hint] if elsewhere else [])


def test_lines_of_the_log_stand_above_progress_bars_in_every_workflow(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(sys.stderr)])
    check_config()
    with tqdm(total=3, file=sys.stderr) as bar:
        bar.update()
        logging.getLogger("medsynth").warning("said")
    before, _, after = capsys.readouterr().err.partition("said\n")
    assert "0/3" in before
    assert before.rpartition("\r")[2].strip() == ""  # the bar is gone from its line
    assert "1/3" in after


def test_a_mistake_of_ours_keeps_its_traceback(capsys):
    show_mistakes_in_one_line()
    sys.excepthook(ValueError, ValueError("a bug"), None)
    assert capsys.readouterr().err == "ValueError: a bug\n"


@pytest.mark.parametrize(("error", "expected"), [(OSError("no space"), ""), (ValueError("a bug"), "ValueError: a bug")])
def test_an_error_of_the_disk_in_a_thread_is_left_to_the_next_caller(capsys, error, expected):
    def fail():
        raise error

    show_mistakes_in_one_line()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert (expected in capsys.readouterr().err) if expected else not capsys.readouterr().err


def test_an_error_is_logged_with_its_traceback(toy_run, tmp_path):
    with pytest.raises(RuntimeError) as stopped:
        toy_run(max_epochs=1, nan_at=2)
    sys.excepthook(stopped.type, stopped.value, stopped.tb)
    log = (tmp_path / "run/train.log").read_text()
    assert "error: iteration 2: error is nan" in log
    assert "Traceback" in log


def test_json_words_of_the_command_line_mean_what_json_says():
    parser = ConfigParser({"a": "true", "b": {"c": ["null", "x"]}, "d": "@a", "e": "false"})
    parser.parse()
    read_json_words(parser)
    assert parser.config["b"]["c"] == [None, "x"]
    assert parser.get_parsed_content("a") is True
    assert parser.get_parsed_content("d") is True
    assert parser.get_parsed_content("e") is False
