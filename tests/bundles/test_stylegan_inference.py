from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image
from small_networks import VAEGAN

from medsynth.data.datalist import datalist
from medsynth.errors import as_line
from medsynth.evaluation.metrics.distribution import classifier, features
from medsynth.inference.paths import STEPS
from medsynth.models.vaegan.network import VaeGan
from medsynth.run.recipe import save_model

ROOT = Path(__file__).parents[2]
SIZE = 16
SMALL = {
    "image_size": SIZE,
    "channels": 8,
    "latent_features": 8,
    "style_features": 8,
    "max_epochs": 1,
    "epoch_length": 4,
    "batch_size": 8,
    "fade_kimg": [0.01],
    "stable_kimg": [0.01],
    "batch_sizes": [8, 8],
    "device": "cpu",
    "validate__key_metric__swd_over_floor__count": 30,
}


@pytest.fixture(scope="module")
def trained(run_bundle, heads, cache_dir, tmp_path_factory) -> Path:
    """model.pt of a run of four steps."""
    folder = tmp_path_factory.mktemp("stylegan") / "run"
    options = SMALL | {"datalist": str(heads), "cache_dir": str(cache_dir), "output_dir": str(folder)}
    run_bundle("training", "stylegan/train.json", **options)
    return folder / "model.pt"


@pytest.fixture
def infer(run_bundle, trained, tmp_path):
    """Run the bundle; the rows of images.csv."""

    def run(**overrides: object) -> list[dict[str, str]]:
        options = {"checkpoint": str(trained), "output_dir": str(tmp_path / "out"), "device": "cpu"} | overrides
        run_bundle("inference", "stylegan/inference.json", **options)
        with (tmp_path / "out/images.csv").open() as file:
            return list(csv.DictReader(file))

    return run


def test_images_of_a_class_have_sidecars_and_latents(infer, tmp_path):
    rows = infer(label="AD", num_images=3, seed=4)
    assert [row["file"] for row in rows] == [f"images/stylegan_AD_4_{i:04d}.nii.gz" for i in range(3)]
    for row in rows:
        image = nib.load(tmp_path / "out" / row["file"])
        assert image.shape == (SIZE, SIZE, 1)
        sidecar = json.loads((tmp_path / "out" / row["file"].replace(".nii.gz", ".json")).read_text())
        assert sidecar["Synthetic"] is True
        assert sidecar["Label"] == "AD"
    latents = np.load(tmp_path / "out/latents.npz", allow_pickle=False)
    assert latents["image"].tolist() == [row["file"] for row in rows]
    assert latents["w"].shape == (3, 8)
    assert not list((tmp_path / "out").glob("grid_*.png"))


def test_without_a_label_there_is_a_grid_of_each_class(infer, tmp_path):
    assert {row["label"] for row in infer(num_images=12)} == {"AD", "NC"}
    for name in ("AD", "NC"):
        assert Image.open(tmp_path / f"out/grid_{name}.png").size == (9 * (SIZE + 2) + 2,) * 2


def test_interpolation_writes_whole_strips_and_an_animation(infer, tmp_path):
    rows = infer(mode="interpolate", num_images=STEPS + 1, path="spherical")
    assert len(rows) == 2 * STEPS
    assert Image.open(tmp_path / "out/grid.png").size == (STEPS * (SIZE + 2) + 2, 2 * (SIZE + 2) + 2)
    assert Image.open(tmp_path / "out/interpolation.gif").is_animated


def test_mixing_writes_a_table_of_nine_by_nine(infer, tmp_path):
    rows = infer(mode="mix", label="NC")
    assert len(rows) == 81
    assert rows[10]["styles"] == "A1 with coarse of B1"
    assert Image.open(tmp_path / "out/grid.png").size == (9 * (SIZE + 2) + 2,) * 2


def test_projection_of_a_folder_writes_images_latents_and_how_close_they_come(infer, heads, tmp_path):
    (tmp_path / "in").mkdir()
    for entry in datalist.read(heads).entries[:2]:
        (tmp_path / "in" / Path(entry["image"]).name).symlink_to(entry["image"])
    rows = infer(mode="project", input=str(tmp_path / "in"), steps=3)
    assert len(rows) == 2
    assert all(float(row["psnr"]) > 0 and float(row["ssim"]) > -1 for row in rows)
    projected = np.load(tmp_path / "out/projected.npz", allow_pickle=False)
    assert len(projected["w"]) == sum(int(row["slices"]) for row in rows)
    assert (tmp_path / "out/grid.png").is_file()


def test_embedding_writes_latents_alone(run_bundle, trained, tmp_path):
    options = {"checkpoint": str(trained), "output_dir": str(tmp_path / "out"), "device": "cpu", "num_images": 20}
    run_bundle("inference", "stylegan/inference.json", mode="embed", **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latents.npz"]
    with np.load(tmp_path / "out/latents.npz", allow_pickle=False) as columns:
        assert {name: len(column) for name, column in columns.items()} == dict.fromkeys(
            ("w", "label", "position", "seed", "index", "image"), 20
        )
        assert set(columns["label"].tolist()) == {"AD", "NC"}
    with pytest.raises(RuntimeError) as stopped:
        run_bundle("inference", "stylegan/inference.json", mode="embed", **options)
    assert "latents.npz is there already" in as_line(stopped.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"label": "MCI"}, "label is 'MCI', which the model does not know: it has the classes AD, NC"),
        ({"mode": "reconstruct"}, "choose one of generate, interpolate, mix, project, embed"),
        ({"truncation": 2}, "truncation is 2: give a number from 0"),
        ({"checkpoint": "none.pt"}, "there is no model none.pt: train one"),
        ({"mode": "project", "input": "EMPTY"}, "holds no image"),
        ({"num_images": 0}, "num_images is 0: give a whole number, 1 or more"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(infer, tmp_path, overrides, message):
    (tmp_path / "empty").mkdir()
    overrides = {key: str(tmp_path / "empty") if value == "EMPTY" else value for key, value in overrides.items()}
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(**overrides)
    assert message in as_line(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_model_of_another_system_is_refused(infer, tmp_path):
    target = {"_target_": "medsynth.models.vaegan.network.VaeGan"}
    save_model(tmp_path / "vae.pt", VaeGan(**VAEGAN), target | VAEGAN, {})
    with pytest.raises(RuntimeError) as refused:
        infer(checkpoint=str(tmp_path / "vae.pt"))
    assert as_line(refused.value) == "error: the checkpoint holds a VaeGan: give the model.pt of a StyleGAN"


def test_monai_finds_all_properties_of_an_inference_bundle(run_bundle, trained, tmp_path):
    overrides = {"checkpoint": str(trained), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    workflow = ConfigWorkflow(str(ROOT / "bundles/stylegan/inference.json"), workflow_type="inference", **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_an_evaluation_tells_classes_in_w_apart_and_how_they_differ(
    run_bundle, trained, heads, cache_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "STEPS", 6)
    monkeypatch.setattr(features, "SNAPSHOTS", (4, 6))
    monkeypatch.setattr(classifier, "STEPS", 5)
    options = {"checkpoint": str(trained), "real": str(heads), "cache_dir": str(cache_dir), "num_images": 60}
    options |= {"output_dir": str(tmp_path / "out"), "utility": False, "device": "cpu"}
    run_bundle("evaluation", "stylegan/evaluate.json", **options)
    measures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 0 <= measures["knn_classes_w"]["value"] <= 1
    assert "chance 0.50" in measures["knn_classes_w"]["note"]
    assert "class_effect" in measures
    assert (tmp_path / "out/figures/tsne_latents_w.png").is_file()
    assert (tmp_path / "out/latents.npz").is_file()
