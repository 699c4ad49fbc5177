from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from toy import ToyEvaluator, ToyTrainer, stop_at

from medsynth.errors import as_line
from medsynth.run.recipe import load_model
from medsynth.training.logging.progress_page import GRIDS


def samples(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").iterdir())


def test_sample_grids_are_drawn_untrained_every_few_epochs_and_at_the_end(toy_run):
    assert samples(toy_run(max_epochs=3)) == ["epoch_0000.png", "epoch_0002.png", "epoch_0003.png"]


def test_the_log_says_once_what_the_grids_show(toy_run, monkeypatch):
    monkeypatch.setattr(ToyTrainer, "shows", "three planes", raising=False)
    folder = toy_run(max_epochs=3)
    assert (folder / "train.log").read_text().count(f"{folder / 'samples'} shows three planes\n") == 1


def test_the_untrained_grid_shows_what_the_engine_begins_with(toy_run, monkeypatch):
    begun = []
    build = ToyTrainer.__init__

    def build_and_begin(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.add_event_handler(Events.EPOCH_STARTED, lambda: begun.append(True))

    monkeypatch.setattr(ToyTrainer, "__init__", build_and_begin)
    monkeypatch.setattr(ToyTrainer, "sample", lambda self, count, seed: torch.full((9, 1, 4, 4), float(bool(begun))))
    with Image.open(toy_run(max_epochs=1) / "samples/epoch_0000.png") as picture:
        assert picture.convert("L").getpixel((4, 4)) == 255


def test_a_run_stopped_in_its_first_epoch_has_pictures_up_to_there(toy_run, tmp_path, monkeypatch):
    stop_at(monkeypatch, 5)
    with pytest.raises(SystemExit):
        toy_run(max_epochs=3)
    folder = tmp_path / "run"
    assert samples(folder) == ["epoch_0000.png", "epoch_0001.png"]
    assert (folder / "losses.png").exists()
    assert "iteration 5:" in (folder / "index.html").read_text()


def test_a_resumed_run_draws_no_untrained_grid_again(toy_run):
    folder = toy_run(max_epochs=2)
    (folder / "samples/epoch_0000.png").unlink()
    toy_run(max_epochs=4)
    assert samples(folder) == ["epoch_0002.png", "epoch_0004.png"]


def test_a_grid_holds_the_images_in_grey_from_black_to_white(toy_run, monkeypatch):
    steps = torch.linspace(-1, 1, 9)
    monkeypatch.setattr(ToyTrainer, "sample", lambda self, count, seed: steps[:, None, None, None].expand(9, 1, 4, 4))
    with Image.open(toy_run(max_epochs=1) / "samples/epoch_0001.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (3 * 6 + 2, 3 * 6 + 2)  # 3 x 3 images of 4 pixels, 2 between them
    assert pixels[4, 4] == 0
    assert pixels[10, 10] == 128
    assert pixels[-4, -4] == 255


def test_the_model_is_of_the_best_epoch_by_the_validator(toy_run, monkeypatch):
    errors = iter([3.0, 1.0, 2.0])
    epochs = {}

    def judge(self, engine, batch):
        if engine.state.iteration % 2:
            engine.error = next(errors)
            epochs[engine.error] = {name: w.clone() for name, w in self.network.state_dict().items()}
        return {"error": engine.error}

    monkeypatch.setattr(ToyEvaluator, "_iteration", judge)
    model = load_model(toy_run(max_epochs=3) / "model.pt")
    assert model.extra == {"iteration": 14, "epoch": 2, "metrics": {"val_error": 1.0}}
    assert model.definition["hidden_channels"] == [8, 4]
    assert model.preprocessing == {"modality": "mri", "image_size": 4}
    assert model.classes == ["AD", "NC"]
    assert all(torch.equal(w, epochs[1.0][name]) for name, w in model.network.state_dict().items())


def test_the_best_metric_is_remembered_over_a_resume(toy_run, monkeypatch):
    errors = iter([1.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(ToyEvaluator, "_iteration", lambda self, engine, batch: {"error": next(errors)})
    toy_run(max_epochs=1)
    assert load_model(toy_run(max_epochs=2) / "model.pt").extra["epoch"] == 1


def test_a_run_that_was_never_validated_gives_its_last_model(toy_run):
    folder = toy_run(max_epochs=2, val_interval=5)
    assert load_model(folder / "model.pt").extra["epoch"] == 2
    toy_run(max_epochs=3, val_interval=5)
    assert load_model(folder / "model.pt").extra["epoch"] == 3


def test_a_model_lost_by_a_kill_at_the_very_end_is_written_by_the_same_command(toy_run):
    folder = toy_run(max_epochs=2)
    (folder / "model.pt").unlink()
    toy_run(max_epochs=2)
    assert load_model(folder / "model.pt").extra["iteration"] == 14


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network_def__out_channels": "$np.int64(16)"}, "network_def::out_channels is a int64, and model.pt holds"),
        ({"network_def___target_": "toy.ToyNetwork"}, "network_def: names 'toy.ToyNetwork', and only networks of"),
    ],
)
def test_a_network_that_no_model_file_could_hold_is_refused_before_training(toy_run, tmp_path, change, told):
    with pytest.raises(RuntimeError) as stopped:
        toy_run(tmp_path / "run", **change)
    assert as_line(stopped.value).startswith(f"error: {told}")
    assert not (tmp_path / "run/losses.csv").exists()


def test_provenance_tells_source_and_progress_over_all_resumes(toy_run):
    toy_run(max_epochs=1)
    provenance = json.loads((toy_run(max_epochs=2) / "provenance.json").read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert (provenance["git_commit"] or "").removesuffix("-dirty") == commit.stdout.strip()
    assert torch.__version__.startswith(provenance["versions"]["torch"])
    assert provenance["datalist_sha256"] == "0f"
    assert provenance["seed"] == 3
    assert provenance["device"] == "cpu"
    assert provenance["iterations"] == 14
    assert provenance["images_seen"] == 56


def test_config_json_repeats_the_run(toy_run, tmp_path):
    import monai.bundle

    first = toy_run(tmp_path / "first", max_epochs=1, hidden=6)
    again = tmp_path / "again"
    monai.bundle.run("training", config_file=str(first / "config.json"), output_dir=str(again))
    assert (first / "metrics.csv").read_text() == (again / "metrics.csv").read_text()


def test_each_line_of_the_log_reaches_console_and_file_once(toy_run, capsys):
    folder = toy_run(max_epochs=1)
    log = (folder / "train.log").read_text()
    shown = capsys.readouterr().out
    for line in ("Starting", "Epoch 1/1", "Validation", "Best so far"):
        assert log.count(line) == shown.count(line) == 1
    assert "Engine run" not in log + shown
    assert "input summary" not in log + shown


def test_the_page_of_a_run_shows_pictures_losses_and_validation_and_needs_no_other_file(toy_run):
    folder = toy_run(max_epochs=3)
    text = (folder / "index.html").read_text()
    assert "Epoch 3 of 3" in text
    assert [text.count(f"<strong>Epoch 000{epoch}.") for epoch in (0, 2, 3)] == [1, 1, 1]
    assert text.count("data:image/png;base64,") == 3 + 1 + 1  # grids, curves of validation and of losses
    assert "val_error" in text
    assert '"refresh"' not in text  # the run is over
    assert "<dd>null</dd>" in text
    assert "@network" not in text
    assert not [
        address for address in re.findall(r'(?:src|href)="([^"]*)', text) if not address.startswith(("data:", "#"))
    ]


def test_the_page_of_a_long_run_keeps_the_first_and_the_last_pictures(toy_run):
    folder = toy_run(max_epochs=3)
    first, last = "epoch_0000", "epoch_0099"
    for epoch in range(4, 100):
        (folder / f"samples/epoch_{epoch:04d}.png").write_bytes((folder / "samples/epoch_0000.png").read_bytes())
    text = (toy_run(max_epochs=4) / "index.html").read_text()
    assert text.count("<strong>Epoch ") == GRIDS
    assert all(name.replace("_", " ").capitalize() in text for name in (first, last))
