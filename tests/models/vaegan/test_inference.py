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
from medsynth.inference import reconstruct
from medsynth.inference.image_folder import read_sidecar
from medsynth.inference.paths import STEPS, great_circle
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


@pytest.fixture
def pictures(tmp_path) -> tuple[Path, np.ndarray]:
    """A datalist of three pictures, two of class AD and 30 years, one of NC and 50; and their pixels."""
    pixels = np.random.default_rng(0).integers(60, 200, (3, 4, 4)).repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    entries = []
    for number, (image, label, age) in enumerate(zip(pixels, ("AD", "AD", "NC"), (30, 30, 50), strict=True)):
        Image.fromarray(image).save(tmp_path / f"p{number}.png")
        entry = {"image": f"p{number}.png", "subject": str(number), "label": label, "covariates": {"age": age}}
        entries.append(entry)
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    return tmp_path / "list.json", pixels


@pytest.fixture
def of_pictures(model_pt) -> Path:
    """A model of pictures, to which class and age matter."""
    return model_pt("image", (0.0, 255.0), covariates=("age",), spread=0.15)


def written(folder: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """The images of a table."""
    return np.stack([nib.load(folder / row["file"]).get_fdata()[..., 0] for row in rows])


def reconstructed(checkpoint: Path, pixels: np.ndarray) -> np.ndarray:
    """(N, 16, 16) from 0 to 255."""
    with torch.no_grad():
        fake = load_model(checkpoint).network(torch.from_numpy(pixels).float()[:, None] / 127.5 - 1)
    return (fake[:, 0].numpy() + 1) * 127.5


def test_the_bundle_reconstructs_inputs(infer, of_pictures, pictures, tmp_path):
    datalist, pixels = pictures
    rows = infer(of_pictures, mode="reconstruct", input=str(datalist))
    assert [row["file"] for row in rows] == [f"images/vaegan_reconstruct_000{i}.nii.gz" for i in range(3)]
    np.testing.assert_allclose(written(tmp_path / "out", rows), reconstructed(of_pictures, pixels), atol=0.51)


@pytest.mark.parametrize("request_of_own", [{"label": "AD"}, {"covariates": {"age": 30}}])
def test_an_edit_to_what_an_image_is_gives_its_reconstruction_within_2_percent(
    infer, of_pictures, pictures, tmp_path, request_of_own
):
    datalist, pixels = pictures
    rows = infer(of_pictures, mode="edit", input=str(datalist), steps=20, **request_of_own)
    assert [row["file"] for row in rows] == [f"images/vaegan_edit_000{i}.nii.gz" for i in range(3)]
    off = np.abs(written(tmp_path / "out", rows) - reconstructed(of_pictures, pixels)).max(axis=(1, 2))
    assert off[:2].max() < 0.02 * 255
    assert off[2] > 0.02 * 255  # of the other class and age


def test_an_edited_image_is_told_by_its_new_class_and_covariates(infer, of_pictures, pictures, tmp_path):
    datalist, _ = pictures
    rows = infer(of_pictures, mode="edit", input=str(datalist), label="NC", covariates={"age": 70})
    assert [row["label"] for row in rows] == ["NC"] * 3
    sidecar = json.loads((tmp_path / "out" / rows[0]["file"].replace(".nii.gz", ".json")).read_text())
    assert (sidecar["Label"], sidecar["Covariates"]) == ("NC", {"age": 70})
    assert sidecar["Synthetic"] is True
    assert -5 < float(rows[0]["psnr"]) < 50


def test_guidance_takes_an_edit_further(infer, of_pictures, pictures, tmp_path):
    datalist, pixels = pictures
    off = []
    for guidance in (1.0, 3.0):
        options = {"label": "NC", "guidance": guidance, "overwrite": True}
        rows = infer(of_pictures, mode="edit", input=str(datalist), **options)
        off.append(np.abs(written(tmp_path / "out", rows)[0] - reconstructed(of_pictures, pixels)[0]).mean())
    assert off[1] > 1.2 * off[0]


def test_what_is_requested_is_drawn_and_told(infer, of_pictures, tmp_path):
    def drawn(**request: object) -> np.ndarray:
        rows = infer(of_pictures, num_images=2, overwrite=True, label="AD", **request)
        sidecar = json.loads((tmp_path / "out" / rows[1]["file"].replace(".nii.gz", ".json")).read_text())
        assert sidecar["Covariates"] == request["covariates"]
        return written(tmp_path / "out", rows)

    young = drawn(covariates={"age": 25.0})
    assert np.array_equal(drawn(covariates={"age": 25.0}), young)
    for other in ({"covariates": {"age": 75.0}}, {"steps": 1}, {"guidance": 4.0}):
        assert not np.array_equal(drawn(**({"covariates": {"age": 25.0}} | other)), young)


def test_the_bundle_interpolates_between_new_images_in_whole_strips(infer, model_pt, tmp_path):
    rows = infer(model_pt(), mode="interpolate", num_images=STEPS + 1)
    assert len(rows) == 2 * STEPS
    assert {row["label"] for row in rows[:STEPS]} in ({"AD"}, {"NC"})
    assert [(row["strip"], row["step"]) for row in rows] == [(str(i), str(k)) for i in (0, 1) for k in range(STEPS)]
    sidecar = read_sidecar(tmp_path / "out" / rows[-1]["file"])
    assert [sidecar[name] for name in ("Mode", "Strip", "Step", "Guidance")] == ["interpolate", 1, STEPS - 1, 1.0]
    assert Image.open(tmp_path / "out" / "grid.png").size == (STEPS * 18 + 2, 2 * 18 + 2)


def test_the_bundle_interpolates_from_each_input_to_the_next(infer, of_pictures, pictures, tmp_path):
    datalist, pixels = pictures
    rows = infer(of_pictures, mode="interpolate", input=str(datalist), steps=20)
    strips = written(tmp_path / "out", rows).reshape(2, STEPS, 16, 16)
    expected = reconstructed(of_pictures, pixels)
    np.testing.assert_allclose(strips[0, 0], expected[0], atol=0.02 * 255)
    np.testing.assert_allclose(strips[0, -1], expected[1], atol=0.02 * 255)
    np.testing.assert_allclose(strips[1, 0], expected[1], atol=0.02 * 255)
    for strip_of_images in strips:
        change = np.abs(np.diff(strip_of_images, axis=0)).mean(axis=(1, 2))
        assert 0 < change.max() < 4 * change.min() + 3


@pytest.mark.parametrize("spoilt", [(1, 2), (0, 2)])
def test_one_input_that_can_be_used_is_too_few_to_interpolate(infer, of_pictures, pictures, tmp_path, spoilt):
    for number in spoilt:
        (tmp_path / f"p{number}.png").write_bytes(b"no picture")
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(of_pictures, mode="interpolate", input=str(pictures[0]))
    assert "1 of the 3 inputs can be used, and a strip goes from one to another" in as_line(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mode": "dream"}, "mode is 'dream': choose one of generate, reconstruct, interpolate, edit"),
        ({"mode": "reconstruct"}, "there is no input: give an image"),
        ({"mode": "edit", "label": "AD"}, "there is no input: give an image"),
        ({"mode": "edit", "input": "{list}"}, "nothing is to change: give --label, --covariates or --seg"),
        ({"mode": "edit", "input": "{list}", "covariates": {"age": 999}}, "age 999, and the training images have 20"),
        ({"mode": "interpolate", "input": "{one}"}, "there is one input: give a folder or a datalist of several"),
        ({"input": "{list}"}, "there is an input: add --mode reconstruct or --mode interpolate or --mode edit"),
        ({"mode": "reconstruct", "input": str(BUNDLE.parent / "none.nii.gz")}, "none.nii.gz does not exist"),
        ({"label": "MCI"}, "it has the classes AD, NC"),
        ({"covariates": {"weight": 70}}, "names weight, which the model does not know: it knows age"),
        ({"covariates": {"age": 5}}, "has age 5, and the training images have 20"),
        ({"position": 0.5}, "the training images of this model had no positions"),
        ({"steps": 0}, "steps is 0: give a whole number, 1 or more"),
        ({"steps": 2.5}, "steps is 2.5: give a whole number"),
        ({"guidance": -1}, "guidance is -1, and negative: give another number"),
        ({"guidance": "much"}, "guidance is 'much': give a number"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number, 1 or more"),
        ({"device": "nowhere"}, "device nowhere cannot be used"),
        ({"num_image": 3}, "the nearest valid key is 'num_images'"),
        ({"checkpoint": "none.pt"}, "there is no model none.pt: train one"),
        ({"checkpoint": str(BUNDLE / "metadata.json")}, "is refused"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(infer, of_pictures, pictures, tmp_path, overrides, message):
    files = {"{list}": str(pictures[0]), "{one}": str(tmp_path / "p0.png")}
    overrides = {key: files.get(value, value) if isinstance(value, str) else value for key, value in overrides.items()}
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(**{"checkpoint": of_pictures} | overrides)
    assert message in as_line(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"label": "MCI"}, "it has the classes AD, NC"),
        ({"covariates": {"age": 999}}, "age 999, and the training images have 20"),
        ({"label": "AD", "steps": 2.5}, "steps is 2.5"),
        ({"segmentations": "none"}, "the model learned without label maps"),
        ({"label": "AD", "dicom": True}, "dicom is for volumes that label maps change"),
    ],
)
def test_a_request_is_checked_before_inputs_are_looked_for(infer, of_pictures, monkeypatch, overrides, message):
    monkeypatch.setattr(reconstruct, "find_inputs", lambda path: pytest.fail("inputs were looked for"))
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(of_pictures, mode="edit", input="scans", **overrides)
    assert message in as_line(refused.value)


def test_png_is_for_models_of_pictures(infer, model_pt):
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(model_pt(), format="png")
    line = "format png is for models of pictures (modality image), and this one is of mri"
    assert line in as_line(refused.value)


def test_a_model_of_the_former_vae_gan_says_which_version_made_it_and_to_train_again(infer, model_pt, tmp_path):
    checkpoint = model_pt()
    content = torch.load(checkpoint, weights_only=True)
    former = {"_target_": content["definition"]["_target_"], "image_size": 16, "latent_features": 8}
    torch.save(content | {"format": 2, "version": "0.2.0", "definition": former}, checkpoint)
    with pytest.raises(Exception) as refused:  # noqa: PT011, MONAI wraps it in what it likes
        infer(checkpoint)
    told = as_line(refused.value)
    assert told.startswith(f"error: {checkpoint}, made by medsynth 0.2.0: ")
    assert told.endswith(": train it again")


def test_monai_finds_all_properties_of_an_inference_bundle(model_pt, tmp_path):
    overrides = {"checkpoint": str(model_pt()), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    workflow = ConfigWorkflow(str(BUNDLE / "inference.json"), workflow_type="inference", **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_a_strip_ends_at_its_two_points_and_goes_in_even_steps_along_the_great_circle(model_pt):
    network = load_model(model_pt(covariates=("age",), spread=0.15)).network
    torch.manual_seed(0)
    noise = torch.randn(2, 1, *network.prior.shape)
    label, position, age = torch.tensor([1]), torch.tensor([[0.2], [0.6]]), torch.tensor([[[30.0]], [[70.0]]])
    points = [(noise[end], label, position[end], age[end]) for end in (0, 1)]
    solver = {"steps": 4, "guidance": 1.0}
    images, labels, positions, ages = zip(*strip(network, *points, solver), strict=True)
    assert labels == (1,) * STEPS
    assert positions == pytest.approx(np.linspace(0.2, 0.6, STEPS))
    assert np.array(ages)[:, 0] == pytest.approx(np.linspace(30, 70, STEPS))
    with torch.no_grad():
        for end, image in zip(points, (images[0], images[-1]), strict=True):
            expected = network.decode(network.prior.travel(*end, **solver)).clamp(-1, 1)[0]
            torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-4)
        between = great_circle(*(end.flatten(1) for end in noise), 0.5).view(1, *network.prior.shape)
        middle = network.prior.travel(between, label, torch.tensor([0.4]), torch.tensor([[50.0]]), **solver)
        torch.testing.assert_close(images[STEPS // 2], network.decode(middle).clamp(-1, 1)[0], atol=1e-5, rtol=1e-4)
