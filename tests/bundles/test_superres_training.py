from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tables import losses, rows

from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
SMALL = {
    "channels": 16,
    "blocks": 1,
    "growth": 8,
    "patch_size": 24,
    "batch_size": 8,
    "learning_rate": 0.003,
    "epoch_length": 25,
    "ema_momentum": 0.1,
    "val_interval": 1,
    "val_slices": 8,
    "sample_epochs": 2,
    "device": "cpu",
    "degradation": "area",
    "blur": [1.2, 1.2],  # can be undone to some extent, and that is soon learned
    "consistent": False,
    "log_iterations": 5,
}


@pytest.fixture(scope="session")
def train(trains, heads) -> Callable[..., Path]:
    return trains("superres/train.json", heads, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of three short epochs, the last of the second stage."""
    return train(tmp_path_factory.mktemp("superres") / "run", max_epochs=3, adversarial_epochs=1)


def test_the_network_comes_to_beat_interpolation_on_held_out_subjects(trained):
    gains = [row["gain_db"] for row in rows(trained / "metrics.csv")]
    assert gains[1] > gains[0] + 0.05


def test_the_second_stage_keeps_the_first_s_model_and_says_its_price(trained):
    kept, last = load_model(trained / "model_first_stage.pt"), load_model(trained / "model.pt")
    metrics = rows(trained / "metrics.csv")
    assert kept.extra["metrics"]["gain_db"] == pytest.approx(max(row["gain_db"] for row in metrics[:3]), rel=1e-4)
    assert last.extra["iteration"] == metrics[-1]["iteration"] == 75
    price = kept.extra["metrics"]["gain_db"] - last.extra["metrics"]["gain_db"]
    assert f"The second stage cost {price:.2f} dB" in (trained / "train.log").read_text()
    assert [row["discriminator"] != "" for row in losses(trained)] == [row["epoch"] == "3" for row in losses(trained)]


def test_a_model_brings_slices_of_any_size_onto_a_finer_grid(trained):
    model = load_model(trained / "model.pt")
    assert model.extra["scale"] == 2
    assert model.extra["degradation"] == "area"
    assert model.preprocessing["keep_pixels"] is True
    coarse = torch.rand(1, 3, 15, 21) * 2 - 1
    fine = model.network(coarse)
    assert fine.shape == (1, 1, 30, 42)
    assert not torch.equal(fine, model.network.base(coarse))


def test_minutes_that_are_over_end_in_a_validated_model(train, tmp_path):
    folder = train(tmp_path / "run", max_epochs=1000, max_minutes=0.05, val_interval=1000)
    (row,) = rows(folder / "metrics.csv")
    assert load_model(folder / "model.pt").extra["iteration"] == row["iteration"] > 0


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"scale": 3}, "scale is 3: choose"),
        ({"scale": 8}, "scale is 8: choose"),
        ({"degradation": "blur"}, "degradation is 'blur': choose one of"),
        ({"patch_size": 25}, "patch_size is 25"),
        ({"image_size": 33}, "image_size 33 is not a multiple of scale 2"),
        ({"noise": [0.1, 0.0]}, "noise is [0.1, 0.0]"),
        ({"adversarial_epochs": 5, "max_epochs": 5}, "adversarial_epochs is 5, of 5 max_epochs"),
        ({"weights__feature": -1}, "weights#feature is -1"),
        ({"upsampling": "cubic"}, "upsampling is 'cubic'"),
        ({"blocks": 0}, "blocks is 0"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)
