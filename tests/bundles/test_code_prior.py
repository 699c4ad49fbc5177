from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tables import rows

from medsynth.models.vqvae.priors.stage_one import load_stage_one
from medsynth.packaging.packing import pack_bundle
from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
STAGE_ONE = {
    "image_size": 32,
    "channels": [16, 32],
    "residual_layers": 1,
    "num_codes": 64,
    "code_features": 4,
    "batch_size": 8,
    "learning_rate": 0.0015,
    "epoch_length": 300,
    "max_epochs": 1,
    "codebook__warmup": 15,
    "ema_momentum": 0.1,
    "val_slices": 16,
}
SHARED = {"batch_size": 16, "epoch_length": 24, "val_slices": 32}
PRIORS = {
    "vqvae/train_prior.json": {
        "channels": 16,
        "discriminator_channels": 16,
        "latent_features": 12,
        "learning_rate": 0.003,
        "epoch_length": 60,
        "ema_momentum": 0.1,
    },
    "vqvae/train_transformer.json": {
        "features": 32,
        "layers": 2,
        "heads": 2,
        "learning_rate": 0.005,
        "ema_momentum": 0.1,
    },
    "vqvae/train_flow.json": {
        "prior_channels": [32, 32],
        "learning_rate": 0.003,
        "epoch_length": 80,
        "val_interval": 1,
    },
}
GAN, TRANSFORMER, FLOW = PRIORS


@pytest.fixture(scope="session")
def stage_one(run_bundle, heads, cache_dir, tmp_path_factory) -> Path:
    """The model.pt of a short stage one."""
    folder = tmp_path_factory.mktemp("stage_one") / "run"
    options = {"datalist": str(heads), "cache_dir": str(cache_dir), "device": "cpu", "output_dir": str(folder)}
    run_bundle("training", "vqvae/train.json", **STAGE_ONE, **options)
    return folder / "model.pt"


@pytest.fixture(scope="session")
def train(run_bundle, heads, cache_dir, stage_one) -> Callable[..., Path]:
    """Train a prior in a folder, which is returned."""

    def start(config: str, folder: Path, **overrides: object) -> Path:
        options = {"datalist": str(heads), "cache_dir": str(cache_dir), "device": "cpu", "checkpoint": str(stage_one)}
        run_bundle("training", config, output_dir=str(folder), **(SHARED | PRIORS[config] | options | overrides))
        return folder

    return start


@pytest.fixture(scope="session", params=PRIORS, ids=["gan", "transformer", "flow"])
def trained(request, train, tmp_path_factory) -> tuple[str, Path]:
    """A prior's config, and the folder of a run of three short epochs."""
    return request.param, train(request.param, tmp_path_factory.mktemp("prior") / "run", max_epochs=3)


def test_training_makes_codes_better_known(trained):
    config, folder = trained
    start, *_, end = rows(folder / "losses.csv")
    first, *_, last = rows(folder / "metrics.csv")
    if config == GAN:
        assert end["reconstruction"] < 0.8 * start["reconstruction"]
        assert last["swd_over_floor"] < 0.9 * first["swd_over_floor"]
        assert last["pair_js"] < 0.9 * first["pair_js"]
    elif config == FLOW:
        assert end["flow"] < start["flow"]
        assert last["validation_loss"] < first["validation_loss"] < 1
        assert last["swd_over_floor"] < 1.1 * first["swd_over_floor"]
    else:
        assert last["swd_over_floor"] < 1.1 * first["swd_over_floor"]
        assert last["negative_log_likelihood"] < first["negative_log_likelihood"] < np.log(64)


def test_code_measures_stand_beside_their_floors_every_epoch(trained):
    _, folder = trained
    metrics = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    for row in metrics:
        assert all(row[name] > 0 and row[f"{name}_floor"] > 0 for name in ("code_kl", "pair_js"))
    assert len({row["pair_js_floor"] for row in metrics}) == 1
    log = (folder / "train.log").read_text()
    assert "pair_js" in log
    assert "times as far from held-out images as other patients' images are" in log.splitlines()[-1]


def test_samples_decode_into_heads_and_shuffled_codes_do_not(trained, heads):
    _, folder = trained
    with Image.open(folder / "samples" / "epoch_0003.png") as picture:
        grid = np.asarray(picture.convert("L"), dtype=float)
    assert grid.shape[1] // 2 == 9 * 34 + 1
    edges = [*range(4, 8), *range(24, 28)]  # further out, the padding of convolutions darkens any map
    corner, middle = np.ix_(edges, edges), np.s_[8:24, 8:24]
    cells = [
        [grid[2 + 34 * i :, 2 + 34 * j :][:32, :32] for i in range(9) for j in half]
        for half in (range(9), range(9, 18))
    ]
    contrast = [np.mean([cell[middle].mean() - cell[corner].mean() for cell in half]) for half in cells]
    assert contrast[0] > 2 * abs(contrast[1])


def test_the_model_generates_with_nothing_else(run_bundle, trained, tmp_path):
    _, folder = trained
    model = shutil.copy(folder / "model.pt", tmp_path / "alone.pt")
    options = {"checkpoint": str(model), "num_images": 3, "seed": 4, "device": "cpu", "label": "AD"}
    run_bundle("inference", "vqvae/inference.json", output_dir=str(tmp_path / "out"), **options)
    files = sorted((tmp_path / "out/images").glob("*.nii.gz"))
    assert [file.name for file in files] == [f"vqvae_AD_4_{i:04d}.nii.gz" for i in range(3)]
    drawn = torch.tensor(np.stack([nib.load(file).get_fdata()[..., 0] for file in files]))
    assert drawn.shape == (3, 32, 32)
    assert torch.pdist(drawn.flatten(1)).min() > 0.1


def test_the_stage_one_inside_is_unchanged(trained, stage_one):
    _, folder = trained
    network, inside = load_model(stage_one).network, load_model(folder / "model.pt").network.stage_one
    mine = inside.state_dict()
    assert mine.keys() == network.state_dict().keys()
    assert all(torch.equal(mine[name], value) for name, value in network.state_dict().items())
    codes = torch.randint(64, (2, 8, 8))
    assert torch.equal(inside.decode_indices(codes), network.eval().decode_indices(codes))


def test_samples_have_the_training_set_s_classes_and_positions(trained):
    _, labels, positions = load_model(trained[1] / "model.pt").network.sample_codes(200, 0)
    assert set(labels.tolist()) == {0, 1}
    assert 0.2 < positions.mean() < 0.8


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"checkpoint": "null"}, "no checkpoint is given: train stage one"),
        (
            {"checkpoint": "nowhere/model.pt"},
            "there is no nowhere/model.pt: train stage one with bundles/vqvae/train.json",
        ),
        ({"num_codes": 32}, "num_codes is 32, and stage one"),
        ({"image_size": 64}, "image_size is 64, and stage one"),
        ({"modality": "ct"}, "modality is ct, and stage one"),
        ({"batch_size": 100000}, "don't fill one batch"),
        ({"batch_size": 1}, "batch_size is 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, GAN, **mistake)


def test_a_prior_hands_its_stage_one_to_another(trained):
    path = trained[1] / "model.pt"
    found, prior = load_stage_one(str(path)), load_model(path)
    assert found.arguments["num_codes"] == prior.network.stage_one.num_codes
    torch.testing.assert_close(found.network.state_dict(), prior.network.stage_one.state_dict(), rtol=0, atol=0)


def test_the_pack_of_a_prior_is_loaded_by_monai_without_data_or_folder(trained, tmp_path, monkeypatch):
    packed = pack_bundle(ROOT / "bundles/vqvae", trained[1] / "model.pt", tmp_path / "pack")
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    network = monai.bundle.load("vqvae", bundle_dir=str(packed.parent), device="cpu")
    expected = load_model(trained[1] / "model.pt").network.state_dict()
    torch.testing.assert_close(network.state_dict(), expected, rtol=0, atol=0, equal_nan=True)
    assert set(tmp_path.rglob("*")) == before
