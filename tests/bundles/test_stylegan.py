from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow
from tables import losses, rows

from medsynth.data.phantom import phantom
from medsynth.errors import as_line
from medsynth.models.stylegan.trainer import StyleGanTrainer
from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
CONFIG = json.loads((ROOT / "bundles/stylegan/train.json").read_text())
(BEST_BY,) = CONFIG["validate"]["key_metric"]
SMALL = {
    "image_size": 16,
    "channels": 8,
    "latent_features": 8,
    "style_features": 16,
    "mapping_layers": 2,
    "batch_size": 16,
    "batch_sizes": [16, 8],
    "fade_kimg": [0.16],
    "stable_kimg": [0.064],
    "epoch_length": 16,
    "max_epochs": 3,
    "ema_kimg": 0.05,
    "ema_warmup_kimg": 0.1,
    "val_interval": 1,
    "sample_epochs": 3,
    "device": "cpu",
    "augmentation__target": 0.1,
    "augmentation__kimg": 1,
    f"validate__key_metric__{BEST_BY}__count": 60,
    "log_iterations": 4,
}


@pytest.fixture(scope="session")
def train(trains, heads) -> Callable[..., Path]:
    return trains("stylegan/train.json", heads, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of three short epochs."""
    return train(tmp_path_factory.mktemp("stylegan") / "run")


def test_training_brings_samples_closer_to_held_out_subjects(trained):
    first, *_, last = rows(trained / "metrics.csv")
    assert last[BEST_BY] < 0.7 * first[BEST_BY]


def test_the_run_grows_and_says_so(trained):
    found = rows(trained / "losses.csv")
    assert [row["resolution"] for row in found] == sorted(row["resolution"] for row in found)
    assert (found[0]["resolution"], found[-1]["resolution"], found[-1]["alpha"]) == (8, 16, 1)
    assert any(0 < row["alpha"] < 1 for row in found)
    assert "Training at 16 x 16 pixels" in (trained / "train.log").read_text()


def test_a_run_folder_holds_what_users_rely_on(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files >= {
        "config.json",
        "model.pt",
        "checkpoints/latest.pt",
        "train.log",
        "losses.csv",
        "losses.png",
        "metrics.csv",
        "provenance.json",
        "samples/epoch_0000.png",
        "samples/epoch_0003.png",
    }
    assert set(losses(trained)[0]) >= {"generator", "discriminator", "penalty", "augmentation"}


def test_the_model_kept_is_the_one_with_the_best_samples(trained):
    best = min(rows(trained / "metrics.csv"), key=lambda row: row[BEST_BY])
    model = load_model(trained / "model.pt")
    assert model.extra["iteration"] == best["iteration"]
    assert model.classes == ["AD", "NC"]
    _, labels, positions = model.network.sample(100, 0)
    assert set(labels.tolist()) == {0, 1}
    assert 0.2 < positions.mean() < 0.8


def test_a_run_killed_in_mid_fade_goes_on_with_the_losses_of_one_that_was_not(train, trained, tmp_path, monkeypatch):
    step, steps = StyleGanTrainer.step, []

    def killed(trainer, *batch):
        steps.append(float(trainer.network.alpha))
        if len(steps) == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *batch)

    monkeypatch.setattr(StyleGanTrainer, "step", killed)
    with pytest.raises(SystemExit):
        train(tmp_path / "run")
    assert 0.2 < steps[-1] < 0.8
    monkeypatch.undo()
    folder = train(tmp_path / "run")
    assert "Going on from iteration 11" in (folder / "train.log").read_text()
    assert losses(folder) == losses(trained)
    assert rows(folder / "metrics.csv") == rows(trained / "metrics.csv")
    assert any(float(row["augmentation"]) > 0 for row in losses(folder))


@pytest.mark.usefixtures("run_bundle")
def test_monai_finds_every_property_of_a_training_bundle(tmp_path, heads, cache_dir):
    workflow = ConfigWorkflow(
        workflow_type="train",
        config_file=str(ROOT / "bundles/stylegan/train.json"),
        meta_file=str(ROOT / "bundles/stylegan/metadata.json"),
        logging_file=str(ROOT / "bundles/stylegan/logging.conf"),
        output_dir=str(tmp_path / "run"),
        datalist=str(heads),
        cache_dir=str(cache_dir),
        **{key.replace("__", "#"): value for key, value in SMALL.items()},
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert workflow.max_epochs == workflow.trainer.state.max_epochs


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 48}, "image_size 48: this network needs 4 times a power of two, such as 64"),
        ({"architecture": "styled"}, "architecture is 'styled': choose one of progressive, skip"),
        ({"batch_size": 2}, "a batch of 2: the discriminator compares groups of 4 images"),
        ({"batch_sizes": [16, 6]}, "a batch of 6: the discriminator compares groups of 4 images"),
        ({"loss__game": "hinge"}, "loss#game is 'hinge': choose one of logistic, wasserstein"),
        ({"batch_size": 100000}, "don't fill one batch"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(train, tmp_path, mistake, told):
    with pytest.raises(RuntimeError) as stopped:
        train(tmp_path / "run", **mistake)
    assert told in as_line(stopped.value)
    assert not any(path.exists() for path in (tmp_path / "run/losses.csv", tmp_path / "run/checkpoints/latest.pt"))


def test_a_class_of_few_slices_is_refused_by_name(train, tmp_path):
    few = phantom.write_dataset(tmp_path / "few", subjects=6, spacing_mm=8.0)
    with pytest.raises(RuntimeError) as stopped:
        train(tmp_path / "run", datalist=str(few), batch_size=4)
    assert "training slices, and 50 or more are needed to learn it" in as_line(stopped.value)
