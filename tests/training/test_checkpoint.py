from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import ToyTrainer, stop_at
from tqdm import tqdm

from medsynth.errors import as_line
from medsynth.run.run import Run
from medsynth.training import random_state


def table(path: Path) -> list[list[str]]:
    """A CSV without its `seconds`."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return [[cell for cell, name in zip(row, rows[0], strict=True) if name != "seconds"] for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """The two runs saw the same losses and metrics, to the last bit, and made the same model."""
    assert table(one / "losses.csv") == table(other / "losses.csv")
    assert table(one / "metrics.csv") == table(other / "metrics.csv")
    models = [torch.load(folder / "model.pt", weights_only=True) for folder in (one, other)]
    assert models[0]["extra"] == models[1]["extra"]
    for name, weights in models[0]["weights"].items():
        torch.testing.assert_close(weights, models[1]["weights"][name], rtol=0, atol=0)


def epoch_means(folder: Path) -> list[str]:
    """The lines of the log that tell an epoch's mean losses."""
    return re.findall(r"Epoch \d.*(?=  \()", (folder / "train.log").read_text())


class Program:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def one_line(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """What a user would see of the error."""
    line = as_line(raised.value)
    assert line is not None
    assert "\n" not in line
    return line


def test_two_halves_equal_the_whole(toy_run, tmp_path):
    whole = toy_run(tmp_path / "whole", max_epochs=4)
    toy_run(tmp_path / "halves", max_epochs=2)
    assert_same_run(whole, toy_run(tmp_path / "halves", max_epochs=4))


@pytest.mark.parametrize(
    ("iteration", "number", "status"),  # of 7 an epoch, a row of losses every 3
    [
        pytest.param(1, signal.SIGINT, 130, id="first"),
        pytest.param(11, signal.SIGTERM, 143, id="within-a-row"),
        pytest.param(12, signal.SIGINT, 130, id="end-of-a-row"),
        pytest.param(14, signal.SIGTERM, 143, id="end-of-an-epoch"),
    ],
)
def test_a_run_stopped_anywhere_goes_on_exactly(toy_run, tmp_path, monkeypatch, iteration, number, status):
    whole = toy_run(tmp_path / "whole", max_epochs=3)
    stop_at(monkeypatch, iteration, number)
    with pytest.raises(SystemExit) as stopped:
        toy_run(tmp_path / "stopped", max_epochs=3)
    assert stopped.value.code == status
    saved = torch.load(tmp_path / "stopped/checkpoints/latest.pt", weights_only=True)
    assert saved["iteration"] == iteration
    assert_same_run(whole, toy_run(tmp_path / "stopped", max_epochs=3))
    assert epoch_means(whole) == epoch_means(tmp_path / "stopped")


def test_the_order_of_the_handlers_changes_nothing(toy_run, tmp_path, monkeypatch):
    whole = toy_run(tmp_path / "whole", max_epochs=3)
    attach = ToyTrainer._register_handlers
    monkeypatch.setattr(ToyTrainer, "_register_handlers", lambda self, handlers: attach(self, handlers[::-1]))
    stop_at(monkeypatch, 10)
    with pytest.raises(SystemExit):
        toy_run(tmp_path / "reversed", max_epochs=3)
    assert_same_run(whole, toy_run(tmp_path / "reversed", max_epochs=3))


@pytest.fixture
def a_second_a_look(monkeypatch):
    """A clock that goes on by a second each time a run looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(Run, "session_seconds", property(lambda run: float(next(ticks))))


def test_a_time_limit_that_is_over_at_once_still_ends_in_good_order(toy_run, tmp_path, a_second_a_look):
    toy_run(tmp_path / "limited", max_epochs=3, max_minutes=0)
    assert "is over at iteration 0" in (tmp_path / "limited/train.log").read_text()


def test_the_time_limit_stops_in_good_order(toy_run, tmp_path, request):
    whole = toy_run(tmp_path / "whole", max_epochs=3)
    request.getfixturevalue("a_second_a_look")
    toy_run(tmp_path / "limited", max_epochs=3, max_minutes=0.2)
    iteration = torch.load(tmp_path / "limited/checkpoints/latest.pt", weights_only=True)["iteration"]
    assert 0 < iteration < 21
    assert_same_run(whole, toy_run(tmp_path / "limited", max_epochs=3))


def in_child(run, folder: Path, settings: dict) -> None:
    """Run with a lock of its own for the progress bar: a killed process would keep a shared one for ever."""
    tqdm.set_lock(threading.RLock())
    run(folder, **settings)


def test_kill_9_at_any_moment_leaves_a_run_that_goes_on(toy_run, tmp_path):
    whole = toy_run(tmp_path / "whole", max_epochs=6)
    fork = multiprocessing.get_context("fork")
    moments = random.Random(0)
    kills = 0
    settings = {"max_epochs": 6, "checkpoint_minutes": 0, "delay": 0.01}
    exit_status = None
    while exit_status is None:
        child = fork.Process(target=in_child, args=(toy_run, tmp_path / "killed", settings))
        child.start()
        child.join(moments.uniform(0.1, 0.3 + 0.1 * kills))
        exit_status = child.exitcode
        if exit_status is None:
            child.kill()
            child.join()
            kills += 1
    assert exit_status == 0
    assert kills > 1
    assert_same_run(whole, toy_run(tmp_path / "killed", max_epochs=6))


def test_a_complete_run_trains_nothing_and_changes_nothing(toy_run):
    folder = toy_run(max_epochs=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    toy_run(max_epochs=2)
    assert "This run is complete: 2 epochs; raise max_epochs to train on" in (folder / "train.log").read_text()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("known", [True, False])
def test_another_measure_chooses_the_best_model_anew(toy_run, known):
    folder = toy_run(max_epochs=2)
    latest, model = folder / "checkpoints/latest.pt", folder / "model.pt"
    content = torch.load(latest, weights_only=True)
    assert content["best_metric_name"] == "val_error"
    content |= {"best_metric": -1.0, "best_metric_name": "val_error" if known else "another"}  # no error is lower
    torch.save(content, latest)
    before = model.read_bytes()
    toy_run(max_epochs=4)
    assert (model.read_bytes() == before) == known
    assert ("The best model is chosen anew" in (folder / "train.log").read_text()) == (not known)


def test_a_truncated_checkpoint_gives_way_to_the_one_before(toy_run, tmp_path):
    whole = toy_run(tmp_path / "whole", max_epochs=4)
    folder = toy_run(tmp_path / "damaged", max_epochs=2)
    latest = folder / "checkpoints/latest.pt"
    latest.write_bytes(latest.read_bytes()[:-1000])
    toy_run(folder, max_epochs=2)
    assert torch.load(folder / "checkpoints/previous.pt", weights_only=True)["iteration"] == 7  # not the damaged one
    toy_run(folder, max_epochs=4)
    log = (folder / "train.log").read_text()
    assert "latest.pt is damaged" in log
    assert "going on from previous.pt, of iteration 7" in log
    assert_same_run(whole, folder)


def test_without_any_readable_checkpoint_the_run_is_refused_and_left_alone(toy_run):
    folder = toy_run(max_epochs=1)
    latest = folder / "checkpoints/latest.pt"
    latest.write_bytes(b"")
    with pytest.raises(RuntimeError) as refused:
        toy_run(max_epochs=2)
    assert "is damaged" in one_line(refused)
    assert latest.read_bytes() == b""


def test_a_checkpoint_with_code_in_it_is_not_run(toy_run, tmp_path):
    folder = toy_run(max_epochs=1)
    torch.save({"stateful": Program(tmp_path / "ran")}, folder / "checkpoints/latest.pt")
    with pytest.raises(RuntimeError) as refused:
        toy_run(max_epochs=2)
    assert "may run code" in one_line(refused)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden": 10}, "another architecture ('network' does not fit)"),
        ({"batch_size": 4, "train__loader__length": 5}, "begun with 7 iterations per epoch"),
        ({"resume": False}, "holds a run already"),
    ],
)
def test_a_run_of_other_settings_is_refused_and_left_alone(toy_run, change, told):
    folder = toy_run(max_epochs=1)
    before = {name: (folder / name).read_bytes() for name in ("checkpoints/latest.pt", "config.json", "model.pt")}
    with pytest.raises(RuntimeError) as refused:
        toy_run(max_epochs=2, **change)
    assert told in one_line(refused)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_run_of_another_network_is_refused(toy_run):
    folder = toy_run(max_epochs=1)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("FullyConnectedNet", "StyleGan"))
    with pytest.raises(RuntimeError) as refused:
        toy_run()
    assert "holds a run of StyleGan, and this one trains FullyConnectedNet: give another" in one_line(refused)


def test_nan_stops_the_run_with_its_iteration_and_keeps_the_good_checkpoint(toy_run, tmp_path):
    whole = toy_run(tmp_path / "whole", max_epochs=2)
    with pytest.raises(RuntimeError) as stopped:
        toy_run(tmp_path / "nan", max_epochs=2, nan_at=9, checkpoint_minutes=0)
    assert "iteration 9" in one_line(stopped)
    assert_same_run(whole, toy_run(tmp_path / "nan", max_epochs=2))


def test_all_processes_save_when_one_is_overdue(toy_run, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("medsynth.training.checkpoint.save_plain", lambda *content, **options: saved.append(content))
    toy_run(tmp_path / "alone", max_epochs=1)
    alone = len(saved)
    another = lambda value, op="SUM": 1 if isinstance(value, int) else value  # noqa: E731
    monkeypatch.setattr("medsynth.distributed.all_reduce", another)
    toy_run(tmp_path / "beside", max_epochs=1)
    assert len(saved) - alone > alone == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_line_and_keeps_the_former_checkpoint(toy_run, tmp_path, monkeypatch, code):
    whole = toy_run(tmp_path / "whole", max_epochs=2)
    folder = toy_run(tmp_path / "full", max_epochs=1)

    def refuse(number):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", refuse)
        with pytest.raises(RuntimeError) as stopped:
            toy_run(folder, max_epochs=2)
    assert one_line(stopped).startswith(f"error: cannot write {folder}")
    assert not list(folder.rglob("*.tmp"))
    assert_same_run(whole, toy_run(folder, max_epochs=2))


def test_a_disk_that_tensorboard_finds_full_is_one_line(toy_run, tmp_path, monkeypatch):
    def refuse(writer, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
        with pytest.raises(RuntimeError) as stopped:
            toy_run(tmp_path / "run", max_epochs=1)
    assert one_line(stopped).startswith(f"error: cannot write {tmp_path / 'run' / 'tensorboard'}: No space left")
    assert_same_run(toy_run(tmp_path / "whole", max_epochs=1), toy_run(tmp_path / "run", max_epochs=1))


def test_untouched_puts_every_generator_back():
    before = random_state.capture()
    with random_state.untouched():
        torch.rand(3)
        random.random()
        np.random.rand(2)  # noqa: NPY002
    after = random_state.capture()
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2] == after["numpy"][2]
