from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsynth.training.logging.logbook import Means
from medsynth.training.logging.table import Table


def test_a_mean_is_over_the_iterations_that_reported_the_loss():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    means.add({"a": torch.tensor(2.0)})
    assert means.take() == {"a": 1.5, "b": 5.0}


def test_half_finished_means_survive_a_stop():
    means, resumed = Means(), Means()
    means.add({"a": torch.tensor(1.0)})
    resumed.load_state_dict(means.state_dict(), torch.device("cpu"))
    resumed.add({"a": torch.tensor(4.0)})
    assert resumed.take() == {"a": 2.5}


def test_means_do_not_share_memory_with_what_was_added():
    means, loss = Means(), torch.tensor(1.0)
    means.add({"a": loss})
    loss.fill_(7)
    assert means.take() == {"a": 1.0}


def test_a_table_is_cut_after_an_iteration_and_loses_a_half_written_row(tmp_path):
    table = Table(tmp_path / "a.csv")
    for iteration in (10, 20, 30):
        table.append({"iteration": iteration, "loss": iteration / 4})
    with table.path.open("a") as file:
        file.write("40,1")
    table.cut(20)
    assert table.path.read_text() == "iteration,loss\n10,2.5\n20,5.0\n"
    table.append({"iteration": 30, "loss": math.pi})
    assert table.read() == {"iteration": [10, 20, 30], "loss": [2.5, 5.0, math.pi]}


def test_a_table_cut_to_nothing_starts_again_with_its_columns(tmp_path):
    table = Table(tmp_path / "a.csv")
    table.append({"iteration": 10, "old": 1})
    table.cut(0)
    table.append({"iteration": 1, "new": 2})
    assert table.path.read_text() == "iteration,new\n1,2\n"


def test_a_cell_left_out_is_nan(tmp_path):
    table = Table(tmp_path / "a.csv")
    table.append({"iteration": 1, "loss": 2})
    table.append({"iteration": 2})
    assert math.isnan(table.read()["loss"][1])


def test_losses_are_averaged_between_rows_and_counted_in_images(toy_run, monkeypatch):
    monkeypatch.setattr(
        "toy.ToyTrainer._iteration",
        lambda self, engine, batch: {"losses": {"error": torch.tensor(float(engine.state.iteration))}},
    )
    folder = toy_run(max_epochs=2)  # 7 iterations of 4 images an epoch, a row every 3 and at the end of an epoch
    columns = Table(folder / "losses.csv").read()
    assert columns["iteration"] == [3, 6, 7, 9, 12, 14]
    assert columns["error"] == [2, 5, 7, 8.5, 11, 13.5]
    assert columns["epoch"] == [1, 1, 1, 2, 2, 2]
    assert columns["images"] == [12, 24, 28, 36, 48, 56]
    log = (folder / "train.log").read_text()
    assert "Epoch 1/2  error 4 " in log
    assert "Epoch 2/2  error 11 " in log


def scalars(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_tensorboard_shows_what_the_tables_hold_even_after_a_resume(toy_run, monkeypatch):
    toy_run(max_epochs=1)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 1)  # files are read in the order of the seconds in their names
    folder = toy_run(max_epochs=2)
    losses, metrics = Table(folder / "losses.csv").read(), Table(folder / "metrics.csv").read()
    expected = dict(zip(losses["iteration"], losses["double"], strict=True))
    assert scalars(folder, "train/double") == pytest.approx(expected)
    expected = dict(zip(metrics["iteration"], metrics["val_error"], strict=True))
    assert scalars(folder, "validation/val_error") == pytest.approx(expected)


def test_the_curves_are_drawn_at_the_end(toy_run):
    with Image.open(toy_run(max_epochs=1) / "losses.png") as picture:
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 10


def test_a_column_that_comes_later_is_empty_before(tmp_path):
    table = Table(tmp_path / "losses.csv")
    table.append({"iteration": 1, "l1": 0.5})
    table.append({"iteration": 2, "cycle": 0.25})
    table.append({"iteration": 3, "l1": 0.125})
    assert (tmp_path / "losses.csv").read_text() == "iteration,l1,cycle\n1,0.5,\n2,,0.25\n3,0.125,\n"
