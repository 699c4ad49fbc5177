from __future__ import annotations

import csv
import json
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import as_line
from medsynth.inference.generate import Request
from medsynth.inference.paths import STEPS
from medsynth.models.vaegan.inference import strip
from medsynth.run.recipe import load_model

BUNDLE = Path(__file__).parents[3] / "bundles" / "vaegan"


@pytest.fixture
def infer(tmp_path):
    """Run the bundle as `python -m monai.bundle run inference` does; returns the rows of images.csv."""

    def run(checkpoint, **overrides) -> list[dict[str, str]]:
        out = str(tmp_path / "out")
        arguments = {"checkpoint": str(checkpoint), "output_dir": out, "device": "cpu"} | overrides
        monai.bundle.run("inference", config_file=str(BUNDLE / "inference.json"), **arguments)
        return list(csv.DictReader((tmp_path / "out" / "images.csv").open()))

    return run


def test_the_bundle_generates_named_images(infer, model_pt, tmp_path):
    rows = infer(model_pt(), num_images=5, seed=3)
    assert len(rows) == 5
    for index, row in enumerate(rows):
        assert row["file"] == f"images/vaegan_{row['label']}_3_{index:04d}.nii.gz"
        assert 0 <= float(row["position"]) <= 1
        image = nib.load(tmp_path / "out" / row["file"])
        assert image.shape == (16, 16, 1)
        assert image.header.get_zooms() == (4.0, 4.0, 2.0)
    assert Image.open(tmp_path / "out" / "grid.png").size == (3 * 18 + 2, 2 * 18 + 2)


def test_computed_tomography_comes_out_in_hounsfield_units(infer, model_pt, tmp_path):
    rows = infer(model_pt("ct", (0.0, 80.0)), num_images=1, label="AD", position=0.5)
    image = nib.load(tmp_path / "out" / rows[0]["file"])
    assert image.get_data_dtype() == np.int16
    assert 0 <= image.get_fdata().min() < image.get_fdata().max() <= 80
    assert image.get_fdata().max() > 2  # neither [-1, 1] nor [0, 1]


@pytest.mark.parametrize(("high", "kind"), [(255.0, np.uint8), (65535.0, np.uint16)])
def test_a_model_of_pictures_writes_png_with_the_values_of_its_nifti(infer, model_pt, tmp_path, high, kind):
    checkpoint = model_pt("image", (0.0, high))
    nifti = [nib.load(tmp_path / "out" / row["file"]).get_fdata()[..., 0] for row in infer(checkpoint, num_images=2)]
    rows = infer(checkpoint, num_images=2, format="png", overwrite=True)
    assert {path.suffix for path in (tmp_path / "out/images").iterdir()} == {".json", ".png"}
    for row, expected in zip(rows, nifti, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "out" / row["file"]))
        assert pixels.dtype == kind
        np.testing.assert_array_equal(pixels, expected)


def test_a_sidecar_says_how_real_slices_become_comparable(infer, model_pt, tmp_path):
    rows = infer(model_pt("ct", (0.0, 80.0)), num_images=1)
    sidecar = json.loads((tmp_path / "out" / rows[0]["file"].replace(".nii.gz", ".json")).read_text())
    assert sidecar["IntensityBounds"] == [0.0, 80.0]
    assert Preprocessing.from_dict(sidecar["Preprocessing"]) == Preprocessing("ct", None, None, 16)


def test_images_of_no_class_are_called_unlabelled(infer, model_pt):
    rows = infer(model_pt(classes=()), num_images=1)
    assert rows[0]["file"] == "images/vaegan_unlabelled_0_0000.nii.gz"
    assert rows[0]["label"] == ""


def test_a_low_temperature_makes_images_more_alike(infer, model_pt, tmp_path):
    def variety(**overrides: float) -> float:
        rows = infer(model_pt(), num_images=30, position=0.5, label="AD", overwrite=True, **overrides)
        return np.stack([nib.load(tmp_path / "out" / row["file"]).get_fdata() for row in rows]).std(axis=0).mean()

    assert variety(temperature=0.3) < 0.8 * variety()


def test_the_bundle_interpolates_in_whole_strips(infer, model_pt, tmp_path):
    rows = infer(model_pt(), mode="interpolate", num_images=STEPS + 1)
    assert len(rows) == 2 * STEPS
    assert {row["label"] for row in rows[:STEPS]} in ({"AD"}, {"NC"})
    assert Image.open(tmp_path / "out" / "grid.png").size == (STEPS * 18 + 2, 2 * 18 + 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mode": "dream"}, "mode is 'dream': choose one of generate, reconstruct, interpolate"),
        ({"mode": "reconstruct"}, "there is no input: give an image"),
        ({"input": str(BUNDLE.parent / "none.nii.gz")}, "none.nii.gz does not exist"),
        ({"label": "MCI"}, "it has the classes AD, NC"),
        ({"temperature": 1.5}, "temperature is 1.5: give a number above 0"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number, 1 or more"),
        ({"format": "png"}, "format png is for models of pictures (modality image), and this one is of mri"),
        ({"device": "nowhere"}, "device nowhere cannot be used"),
        ({"num_image": 3}, "the nearest valid key is 'num_images'"),
        ({"checkpoint": "none.pt"}, "there is no model none.pt: train one"),
        ({"checkpoint": str(BUNDLE / "metadata.json")}, "is refused"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(infer, model_pt, tmp_path, overrides, message):
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(**{"checkpoint": model_pt()} | overrides)
    assert message in as_line(refused.value)
    assert not (tmp_path / "out").exists()


def test_monai_finds_all_properties_of_an_inference_bundle(model_pt, tmp_path):
    overrides = {"checkpoint": str(model_pt()), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    workflow = ConfigWorkflow(str(BUNDLE / "inference.json"), workflow_type="inference", **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_a_strip_ends_at_two_samples_of_one_class_and_goes_in_even_steps(model_pt):
    network = load_model(model_pt()).network
    request = Request(1, None, None, 4)
    images = list(strip(network, request, {"label": None, "position": None, "temperature": 1.0}, 0))
    assert len(images) == STEPS
    assert len({label for _, label, _ in images}) == 1
    positions = torch.tensor([position for *_, position in images])
    torch.testing.assert_close(positions.diff(), positions.diff().mean().expand(STEPS - 1))
    steps = torch.stack([image for image, *_ in images]).diff(dim=0).abs().mean(dim=(1, 2, 3))
    assert steps.max() < 3 * steps.min() + 1e-3
