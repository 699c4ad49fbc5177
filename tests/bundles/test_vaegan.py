from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tables import losses, rows

from medsynth.errors import as_line
from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
CONFIG = json.loads((ROOT / "bundles/vaegan/train.json").read_text())
(BEST_BY,) = CONFIG["validate"]["key_metric"]
SMALL = {
    "image_size": 32,
    "channels": 32,
    "latent_features": 8,
    "mixture_components": 2,
    "kept_components": 4,
    "batch_size": 8,
    "learning_rate": 0.001,
    "weights__adversarial": 0.05,  # a critic of 48 steps is a bad teacher, and what it costs depends on the rounding
    "weights__spectrum": 0.1,  # as much less than by default: 48 steps learn to reconstruct, too
    "epoch_length": 12,
    "warmup": 12,
    "sample_epochs": 2,
    "device": "cpu",
    f"validate__key_metric__{BEST_BY}__count": 60,
    "log_iterations": 4,
}


@pytest.fixture(scope="session")
def train(trains, heads) -> Callable[..., Path]:
    return trains("vaegan/train.json", heads, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of four short epochs."""
    return train(tmp_path_factory.mktemp("vaegan") / "run", max_epochs=4)


def test_training_brings_samples_closer_to_held_out_subjects(trained):
    first, *_, last = rows(trained / "metrics.csv")
    assert last["swd_over_floor"] < first["swd_over_floor"]
    assert last["psd_db"] < first["psd_db"]
    assert last["psnr"] > first["psnr"] - 0.5  # the price of texture
    patch = {epoch: [row["patch"] for row in rows(trained / "losses.csv") if row["epoch"] == epoch] for epoch in (1, 4)}
    assert np.mean(patch[4]) < np.mean(patch[1])


def test_the_losses_have_their_names_and_the_terms_without_weight_are_not_computed(trained):
    first = losses(trained)[0]
    used = {name for name, weight in CONFIG["weights"].items() if name != "_target_" and weight}
    assert set(first) == {"iteration", "epoch", "images", "total", "critic"} | used


def test_the_model_kept_is_the_one_with_the_best_samples(trained):
    metrics = rows(trained / "metrics.csv")
    model = load_model(trained / "model.pt")
    best = min(metrics, key=lambda row: row[BEST_BY])
    assert model.extra["iteration"] == best["iteration"]
    assert model.extra["metrics"][BEST_BY] == pytest.approx(best[BEST_BY], rel=1e-4)
    assert model.classes == ["AD", "NC"]
    assert model.network.sample(2, 0)[0].shape == (2, 1, 32, 32)


def test_samples_are_of_the_training_set_s_classes_and_positions_in_the_model_file(trained):
    _, labels, positions = load_model(trained / "model.pt").network.sample(300, 0)
    assert set(labels.tolist()) == {0, 1}
    assert 0.2 < positions.mean() < 0.8


def test_another_seed_gives_other_losses(train, trained, tmp_path):
    assert losses(train(tmp_path / "other", max_epochs=1, seed=1))[0] != losses(trained)[0]


def test_a_misspelt_override_is_refused_with_the_nearest_key(refused, tmp_path):
    line = refused("training", "vaegan/train.json", output_dir=tmp_path / "run", max_epoch=1)
    assert "'max_epoch'" in line
    assert line.endswith("the nearest valid key is 'max_epochs'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 48}, "image_size 48: this network needs 4 times a power of two, such as 64"),
        ({"image_size": 8}, "image_size 8: this network needs"),
        ({"image_size": 0}, "image_size 0: this network needs"),
        ({"datalist": "nowhere.json"}, "datalist nowhere.json"),
        ({"batch_size": 100000}, "don't fill one batch"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_going_on_with_another_architecture_is_refused_and_the_run_kept(train, tmp_path):
    folder = train(tmp_path / "run", max_epochs=1)
    before = (folder / "checkpoints/latest.pt").read_bytes()
    with pytest.raises(RuntimeError) as stopped:
        train(folder, max_epochs=2, latent_features=6)
    assert as_line(stopped.value) is not None
    assert (folder / "checkpoints/latest.pt").read_bytes() == before


def test_a_model_generates_nifti_images_with_sidecars_that_say_so(run_bundle, trained, tmp_path):
    options = {"checkpoint": str(trained / "model.pt"), "num_images": 3, "seed": 4, "device": "cpu"}
    run_bundle("inference", "vaegan/inference.json", output_dir=str(tmp_path / "out"), label="AD", **options)
    files = sorted((tmp_path / "out/images").glob("*.nii.gz"))
    assert [file.name for file in files] == [f"vaegan_AD_4_{i:04d}.nii.gz" for i in range(3)]
    for file in files:
        image = nib.load(file)
        assert image.shape == (32, 32, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header.get_zooms()[:2] == pytest.approx((6.0, 6.0), rel=0.4)  # heads of 32 pixels or a bit fewer
        assert np.ptp(image.get_fdata()) > 0.1
        sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Synthetic"] is True
        assert sidecar["Label"] == "AD"
    assert len((tmp_path / "out/images.csv").read_text().splitlines()) == 4
    with Image.open(tmp_path / "out/grid.png") as grid:
        assert min(grid.size) >= 64
    drawn = torch.tensor(np.stack([nib.load(file).get_fdata()[..., 0] for file in files]))
    assert torch.pdist(drawn.flatten(1)).min() > 0.1


def test_images_that_are_there_are_not_overwritten(run_bundle, trained, tmp_path):
    options = {"checkpoint": str(trained / "model.pt"), "num_images": 1, "device": "cpu", "output_dir": str(tmp_path)}
    run_bundle("inference", "vaegan/inference.json", **options)
    with pytest.raises(RuntimeError) as stopped:
        run_bundle("inference", "vaegan/inference.json", **options)
    assert "is there already" in as_line(stopped.value)


def test_a_missing_checkpoint_is_told_in_one_line(refused):
    line = refused("inference", "vaegan/inference.json", checkpoint="nowhere/model.pt")
    assert "nowhere/model.pt" in line
