from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tables import rows

from medsynth.data.phantom import phantom
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
    assert any(row["augmentation"] > 0 for row in found)
    assert set(found[0]) >= {"generator", "discriminator", "penalty"}
    assert "Training at 16 x 16 pixels" in (trained / "train.log").read_text()


def test_the_model_kept_is_the_one_with_the_best_samples(trained):
    best = min(rows(trained / "metrics.csv"), key=lambda row: row[BEST_BY])
    model = load_model(trained / "model.pt")
    assert model.extra["iteration"] == best["iteration"]
    assert model.classes == ["AD", "NC"]
    _, labels, positions = model.network.sample(100, 0)
    assert set(labels.tolist()) == {0, 1}
    assert 0.2 < positions.mean() < 0.8


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 48}, "image_size 48: this network needs 4 times a power of two, such as 64"),
        ({"architecture": "styled"}, "architecture is 'styled': choose one of progressive, skip"),
        ({"batch_size": 2}, "a batch of 2: the discriminator compares groups of 4 images"),
        ({"batch_sizes": [16, 6]}, "a batch of 6: the discriminator compares groups of 4 images"),
        ({"loss__adversarial_loss": "hinge"}, "loss#adversarial_loss is 'hinge': choose one of logistic, wasserstein"),
        ({"batch_size": 100000}, "don't fill one batch"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_a_class_of_few_slices_is_refused_by_name(refusal, train, tmp_path):
    few = phantom.write_dataset(tmp_path / "few", subjects=6, spacing_mm=8.0)
    assert "training slices, and 50 or more are needed to learn it" in refusal(train, datalist=str(few), batch_size=4)
