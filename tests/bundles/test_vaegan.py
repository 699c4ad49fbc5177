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
from medsynth.evaluation.metrics import segmentation_utility
from medsynth.inference.image_folder import read_sidecar
from medsynth.run.recipe import load_model
from medsynth.tuning.search_space import read_search_space

ROOT = Path(__file__).parents[2]
CONFIG = json.loads((ROOT / "bundles/vaegan/train.json").read_text())
(BEST_BY,) = CONFIG["validate"]["key_metric"]
SMALL = {
    "image_size": 32,
    "channels": 32,
    "prior_channels": [32, 32],
    "prior_learning_rate": 0.003,
    "batch_size": 8,
    "prior_from": 0.5,
    "epoch_length": 30,
    "val_interval": 1,
    "sample_epochs": 2,
    "device": "cpu",
    "val_samples": 60,
    "log_iterations": 4,
}
SHORT = {"epoch_length": 4, "val_samples": 0}


@pytest.fixture(scope="session")
def train(trains, heads) -> Callable[..., Path]:
    return trains("vaegan/train.json", heads, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of six short epochs, three of each part."""
    return train(tmp_path_factory.mktemp("vaegan") / "run", max_epochs=6)


def test_the_first_part_learns_to_reconstruct_and_the_second_to_draw(trained):
    metrics = rows(trained / "metrics.csv")
    assert metrics[2]["psnr"] > metrics[0]["psnr"] + 1
    assert metrics[2]["ssim"] > metrics[0]["ssim"]
    assert all(row["validation_loss"] > 1 for row in metrics[:3])  # 1 and the error of reconstructions
    assert metrics[5]["validation_loss"] < metrics[3]["validation_loss"] < 1
    assert metrics[5]["swd_over_floor"] < metrics[0]["swd_over_floor"]
    flow = [row["flow"] for row in rows(trained / "losses.csv") if row["epoch"] > 3]
    assert np.mean(flow[-5:]) < np.mean(flow[:5]) < 1.05


def test_reconstructions_do_not_change_while_the_prior_learns(trained):
    assert len({round(row["psnr"], 3) for row in rows(trained / "metrics.csv")[3:]}) == 1


def test_the_log_says_what_samples_show_before_and_after_the_prior_learns(trained):
    said = "samples shows reconstructions of training slices, and new slices once the prior learns"
    assert (trained / "train.log").read_text().count(said) == 1


def test_the_losses_have_their_names_and_the_terms_without_weight_are_not_computed(trained):
    table = rows(trained / "losses.csv")
    known = {part: {name for row in table if (row["epoch"] > 3) == part for name in row if row[name] == row[name]}
             for part in (False, True)}  # fmt: skip
    counts = {"iteration", "epoch", "images", "seconds"}
    used = {name for name, weight in CONFIG["weights"].items() if name != "_target_" and weight}
    assert known[False] - counts == used | {"critic", "total"}
    assert known[True] - counts == {"flow"}


def test_the_model_kept_is_the_one_with_the_best_prior(trained):
    metrics = rows(trained / "metrics.csv")
    model = load_model(trained / "model.pt")
    best = min(metrics, key=lambda row: row[BEST_BY])
    assert best["epoch"] > 3
    assert model.extra["iteration"] == best["iteration"]
    assert model.extra["metrics"][BEST_BY] == pytest.approx(best[BEST_BY], rel=1e-4)
    assert model.classes == ["AD", "NC"]
    assert model.network.sample(2, 0)[0].shape == (2, 1, 32, 32)


def test_samples_are_of_the_training_set_s_classes_and_positions_in_the_model_file(trained):
    _, labels, positions, covariates = load_model(trained / "model.pt").network.sample(300, 0, steps=1)
    assert set(labels.tolist()) == {0, 1}
    assert 0.2 < positions.mean() < 0.8
    assert covariates.shape == (300, 0)


def test_what_a_study_looks_for_is_measured_in_each_of_its_trials(trained):
    folder = ROOT / "bundles/vaegan"
    space = read_search_space(folder / "tune.json", folder / "train.json")
    assert set(space.objectives) <= set(rows(trained / "metrics.csv")[0])
    assert space.keys["val_samples"] == {"choices": [256]}  # training by itself draws none
    assert space.first_trial().keys() == space.keys.keys() - {"val_samples"}  # the defaults lie in all other ranges


def test_another_seed_gives_other_losses(train, trained, tmp_path):
    assert losses(train(tmp_path / "other", **SHORT, max_epochs=1, seed=1))[0] != losses(trained)[0]


def test_a_run_prolonged_in_its_second_part_leaves_reconstructions_as_they_are(train, tmp_path):
    folder = train(tmp_path / "run", **SHORT, max_epochs=2)
    train(folder, **SHORT, max_epochs=6)
    metrics = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in metrics] == list(range(1, 7))
    assert len({round(row["psnr"], 3) for row in metrics[1:]}) == 1


def test_covariates_of_the_datalist_become_conditions(train, heads, run_bundle, tmp_path):
    content = json.loads(heads.read_text())
    for split in ("training", "validation", "test"):
        for number, entry in enumerate(content[split]):
            entry["covariates"] = {"age": 30 + 5 * number}
    listed = heads.with_name("aged.json")
    listed.write_text(json.dumps(content))
    folder = train(tmp_path / "run", **SHORT, max_epochs=2, covariates=["age"], datalist=str(listed))
    network = load_model(folder / "model.pt").network
    assert network.conditions.covariates == ("age",)
    assert network.conditions.covariate_lowest.item() == 30
    options = {"checkpoint": str(folder / "model.pt"), "num_images": 2, "device": "cpu", "covariates": {"age": 40}}
    run_bundle("inference", "vaegan/inference.json", output_dir=str(tmp_path / "out"), **options)
    told = [json.loads(path.read_text())["Covariates"] for path in (tmp_path / "out/images").glob("*.json")]
    assert told == [{"age": 40.0}] * 2


def test_a_misspelt_override_is_refused_with_the_nearest_key(refused, tmp_path):
    line = refused("training", "vaegan/train.json", output_dir=tmp_path / "run", max_epoch=1)
    assert "'max_epoch'" in line
    assert line.endswith("the nearest valid key is 'max_epochs'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 20}, "image_size 20: this network needs a multiple of 8 from 16 on, such as 16"),
        ({"image_size": 0}, "image_size 0: this network needs"),
        ({"factor": 3}, "factor is 3: choose one of 2, 4, 8"),
        ({"channels": 8}, "channels is 8: give a multiple of 32, such as 32"),
        ({"prior_channels": [32]}, "prior_channels is [32]: give two multiples of 32"),
        ({"prior_from": 1}, "prior_from is 1: give a share between 0 and 1"),
        ({"critic_from": 2}, "critic_from is 2: give a share from 0 to 1"),
        ({"weights__kl": -1}, "weights#kl is -1, and negative: give another number"),
        ({"datalist": "nowhere.json"}, "datalist nowhere.json"),
        ({"batch_size": 100000}, "don't fill one batch"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_going_on_with_another_architecture_is_refused_and_the_run_kept(train, tmp_path):
    folder = train(tmp_path / "run", **SHORT, max_epochs=1)
    before = (folder / "checkpoints/latest.pt").read_bytes()
    with pytest.raises(RuntimeError) as stopped:
        train(folder, **SHORT, max_epochs=2, latent_channels=6)
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


@pytest.fixture(scope="session")
def labelled_heads(heads: Path) -> Path:
    """The phantom's datalist with label maps of two classes, told by the intensities."""
    content = json.loads(heads.read_text())
    for split in ("training", "validation", "test"):
        for entry in content[split]:
            image = nib.load(heads.parent / entry["image"])
            values = image.get_fdata()
            bright = np.percentile(values[values > 0.1 * values.max()], 60)
            labels = (values > 0.2 * bright).astype(np.uint8) + (values > bright) * np.uint8(3)
            name = entry["image"].replace("_T1w", "_dseg").replace("/", "_")
            nib.save(nib.Nifti1Image(labels, image.affine), heads.parent / f"labels_{name}")
            entry["segmentation"] = f"labels_{name}"
    listed = heads.with_name("labelled.json")
    listed.write_text(json.dumps(content | {"labels": {"0": "background", "1": "dark", "4": "bright"}}))
    return listed


@pytest.fixture(scope="session")
def labelled(train, labelled_heads, tmp_path_factory) -> Path:
    """The folder of a short run with label maps."""
    folder = tmp_path_factory.mktemp("labelled") / "run"
    return train(folder, max_epochs=4, **SHORT, datalist=str(labelled_heads), use_segmentation=True)


def test_label_maps_of_the_datalist_become_a_condition(labelled, trained):
    model = load_model(labelled / "model.pt")
    assert model.extra["segmentation"]["classes"] == {"0": "background", "1": "dark", "4": "bright"}
    assert model.network.segmentation_classes == 3
    assert model.network.sample(2, 0)[0].shape == (2, 1, 32, 32)
    assert load_model(trained / "model.pt").extra["segmentation"] is None


def test_a_model_that_learned_label_maps_draws_pairs_of_map_and_image(run_bundle, labelled, tmp_path):
    assert [row["map_flow"] > 0 for row in rows(labelled / "losses.csv")][-1]
    out, source = tmp_path / "out", f"{labelled}/model.pt"
    run_bundle("inference", "vaegan/inference.json", checkpoint=source, output_dir=str(out), num_images=3, device="cpu")
    images, labels = (sorted((out / kind).glob("*.nii.gz")) for kind in ("images", "segmentations"))
    assert len(images) == len(labels) == 3
    for pair in zip(images, labels, strict=True):
        image, label = map(nib.load, pair)
        assert image.shape == label.shape == (32, 32, 1)
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(label.get_fdata())) <= {0, 1, 4}
        assert read_sidecar(pair[0])["SegmentationOrigin"] == "drawn"


def test_use_segmentation_without_label_maps_is_refused(train, heads, tmp_path):
    content = {name: value for name, value in json.loads(heads.read_text()).items() if name != "labels"}
    listed = heads.with_name("unlabelled.json")
    listed.write_text(json.dumps(content))
    with pytest.raises(Exception, match="use_segmentation") as refused:
        train(tmp_path / "run", **SHORT, datalist=str(listed), use_segmentation=True)
    assert "has no label maps with classes: make it with" in as_line(refused.value)


def test_an_evaluation_with_label_maps_draws_deformed_ones_of_training_patients_and_measures_them(
    run_bundle, labelled, labelled_heads, cache_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(segmentation_utility, "STEPS", 2)
    options = {"real": str(labelled_heads), "cache_dir": str(cache_dir), "num_images": 6, "device": "cpu"}
    out = tmp_path / "own"
    run_bundle("evaluation", "vaegan/evaluate.json", checkpoint=f"{labelled}/model.pt", output_dir=str(out), **options)
    again = tmp_path / "again"
    run_bundle("evaluation", "evaluation/evaluate.json", synthetic=str(out), output_dir=str(again), **options)
    measures = [json.loads((folder / "metrics.json").read_text()) for folder in (out, again)]
    names = [f"{kind}_{use}{of}" for kind in ("dice", "hd95") for use in ("tstr", "shown") for of in ("", "/bright")]
    for name in [*names, "area_ratio/bright"]:
        assert measures[0][name]["floor"] is not None
        assert measures[1][name] == measures[0][name]
    assert measures[0]["hd95_tstr"]["unit"] == "mm"
    assert measures[0]["dice_tstr"]["baseline"] is not None
    assert "deformed, of training patients (6)" in (again / "report.html").read_text()
