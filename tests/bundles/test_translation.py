from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tables import rows

from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
SMALL = {
    "image_size": 32,
    "channels": [16, 32],
    "latent_channels": 4,
    "discriminator_channels": 8,
    "discriminator_layers": 1,
    "discriminator_scales": 2,
    "batch_size": 8,
    "learning_rate": 0.003,
    "epoch_length": 10,
    "val_interval": 1,
    "device": "cpu",
    "log_iterations": 4,
}


@pytest.fixture(scope="session")
def unpaired(pairs) -> Path:
    """The same subjects, each with a source or a target."""
    content = json.loads(pairs.read_text())
    for split in ("training", "validation"):
        for number, entry in enumerate(content[split]):
            del entry[("source", "target")[number % 2]]
    path = pairs.with_name("unpaired.json")
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def train(trains, pairs) -> Callable[..., Path]:
    return trains("translation/train.json", pairs, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of three short epochs."""
    return train(tmp_path_factory.mktemp("translation") / "run", max_epochs=3)


def test_training_on_pairs_brings_translations_closer_to_the_truth(trained):
    first, *_, last = rows(trained / "metrics.csv")
    assert last["mae_target"] < first["mae_target"] - 20  # HU
    assert last["psnr_target"] > first["psnr_target"]
    start, *_, end = rows(trained / "losses.csv")
    assert end["l1"] < start["l1"]
    assert "samples shows in a row, a held-out source, its translation, the true" in (trained / "train.log").read_text()
    assert set(start) == {"iteration", "epoch", "seconds", "images", "total", "l1", "ssim", "kl"}


def test_the_model_holds_both_directions_both_discriminators_and_what_values_stand_for(trained):
    model = load_model(trained / "model.pt")
    assert model.network.source_to_target is not model.network.target_to_source
    assert model.discriminator.source is not model.discriminator.target
    assert model.preprocessing["source"]["modality"] == "mri"
    assert model.preprocessing["target"]["window"] == [-1000, 2000]
    assert list(model.extra["spaces"]["target"]["bounds"]) == [-1000, 2000]
    assert model.extra["metrics"]["error"] == min(row["error"] for row in rows(trained / "metrics.csv"))


def test_images_without_partner_train_the_cycle_and_both_discriminators(train, unpaired, tmp_path):
    folder = train(tmp_path / "run", datalist=str(unpaired), max_epochs=2, batch_size=2, cycle_interval=1)
    start, *_, end = rows(folder / "losses.csv")
    assert end["cycle"] < start["cycle"] + end["adversarial"]
    terms = {"adversarial", "cycle", "identity", "pixel_distribution", "structure", "kl"}
    assert set(start) == {"iteration", "epoch", "seconds", "images", "total", "discriminator"} | terms
    assert set(rows(folder / "metrics.csv")[0]) >= {"error", "swd_source", "swd_target"}


def test_a_mixed_list_trains_all_terms(train, pairs, unpaired, tmp_path):
    content = json.loads(pairs.read_text())
    del content["training"][0]["target"]
    mixed = pairs.with_name("mixed.json")
    mixed.write_text(json.dumps(content))
    last = rows(
        train(tmp_path / "run", datalist=str(mixed), max_epochs=1, batch_size=2, cycle_interval=1) / "losses.csv"
    )[-1]
    assert {
        "l1",
        "ssim",
        "adversarial",
        "cycle",
        "identity",
        "pixel_distribution",
        "structure",
        "kl",
        "discriminator",
    } <= set(last)


def without(key: str, source: Path) -> Path:
    """The datalist without the images of a domain."""
    content = json.loads(source.read_text())
    for split in ("training", "validation", "test"):
        for entry in content[split]:
            del entry[key]
    path = source.with_name(f"without_{key}.json")
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 30}, "image_size 30 x 30: this network needs a multiple of 4, such as 32"),
        ({"weights__l1": 0, "weights__ssim": 0}, "the weights of what pairs train"),
        ({"weights__l1": -1}, "weights#l1 is -1"),
        ({"objective": "wasserstein"}, "choose one of least_squares, hinge"),
        ({"discriminator_norm": "batch"}, "choose one of spectral, instance"),
        ({"source_window": "bone"}, "window is 'bone'"),
        ({"target_window": [4000, 5000]}, "no value of the target images lies inside their window"),
        ({"target_modality": "pet"}, "modality is 'pet'"),
        ({"batch_size": 10000}, "don't fill one batch"),
        ({"datalist": "nowhere.json"}, "datalist nowhere.json"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_unpaired_images_where_pairs_are_needed_are_refused(refusal, train, unpaired):
    assert "some training images have no partner" in refusal(
        train, datalist=str(unpaired), weights__adversarial=0, weights__cycle=0, weights__pixel_distribution=0
    )


def test_a_domain_without_images_is_refused(refusal, train, pairs):
    assert "no training subject has a target image" in refusal(train, datalist=str(without("target", pairs)))


def test_grids_that_share_nothing_are_refused(refusal, train, pairs):
    content = json.loads(pairs.read_text())
    far = nib.load(pairs.parent / content["training"][0]["target"])
    affine = far.affine.copy()
    affine[:3, 3] += 1000
    nib.save(nib.Nifti1Image(np.asarray(far.dataobj), affine), pairs.parent / "far_CT.nii.gz")
    for entry in content["training"]:
        entry["target"] = "far_CT.nii.gz"
    del content["training"][1:]
    path = pairs.with_name("far.json")
    path.write_text(json.dumps(content))
    assert "cannot be used" in refusal(train, datalist=str(path))
