from __future__ import annotations

import csv
import logging
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from medsynth.errors import MedsynthError, as_line
from medsynth.inference import reconstruct
from medsynth.inference.generate import Request
from medsynth.inference.image_folder import ImageFolder
from medsynth.models.volumes.inference import VolumeInference, resampled
from medsynth.models.volumes.network import VolumeFlow
from medsynth.run import recipe
from medsynth.run.recipe import LoadedModel

BUNDLE = Path(__file__).parents[3] / "bundles" / "volumes"
SIZE = (16, 16, 24)


@pytest.fixture
def model() -> LoadedModel:
    torch.manual_seed(0)
    network = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, num_classes=2, covariates=("age",)).eval()
    images = torch.rand(6, 1, *SIZE) * 2 - 1
    network.fit(images, torch.arange(6) % 2, torch.full((6,), torch.nan), torch.arange(30.0, 36)[:, None])
    preprocessing = {"modality": "mri", "window": None, "spacing_mm": [4, 4, 4], "size": list(SIZE)}
    preprocessing |= {"region": "head", "bias_correction": False, "finer": 2}
    space = {"modality": "mri", "spacing_mm": [4.0, 4.0, 4.0], "bounds": None}
    return LoadedModel(network, preprocessing, ["AD", "NC"], {}, "0" * 64, {"slices": space})


@pytest.fixture
def infer(model, tmp_path):
    def run(mode="generate", inputs=(), num_images=2, label=None, covariates=None, position=None, **more):
        output = ImageFolder(tmp_path / mode, "volumes", model.digest)
        request = Request(num_images, label, position, 0, covariates)
        path = inputs[0]["image"] if inputs else None
        VolumeInference(model, output, mode, request, path, **more).run(inputs)
        return tmp_path / mode

    return run


def test_volumes_are_written_upright_with_their_spacing_their_conditions_and_a_picture(infer, caplog):
    caplog.set_level(logging.INFO)
    folder = infer(label="NC", covariates={"age": 33}, steps=1)
    files = sorted((folder / "images").glob("*.nii.gz"))
    assert [file.name for file in files] == ["volumes_NC_0_0000.nii.gz", "volumes_NC_0_0001.nii.gz"]
    image = nib.load(files[0])
    assert image.shape == SIZE
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), 4)
    np.testing.assert_allclose(image.affine[:3, 3], [-30, -30, -46])
    assert not np.array_equal(image.get_fdata(), nib.load(files[1]).get_fdata())
    assert (folder / "grid.png").exists()
    assert "grid.png (of each volume, the middle axial, coronal and sagittal plane, the patient's" in caplog.text
    assert "age" in (folder / "images.csv").read_text()


def test_the_first_of_many_is_the_first_of_few(infer, tmp_path):
    first = sorted((infer(num_images=2, steps=1) / "images").glob("*.nii.gz"))[0]
    values = nib.load(first).get_fdata()
    (tmp_path / "generate").rename(tmp_path / "before")
    again = sorted((infer(num_images=1, steps=1) / "images").glob("*.nii.gz"))[0]
    assert again.name == first.name
    np.testing.assert_array_equal(nib.load(again).get_fdata(), values)


def test_dicom_series_have_a_file_a_slice(infer):
    folder = infer(num_images=1, steps=1, dicom=True)
    (series,) = (folder / "dicom").iterdir()
    assert len(list(series.glob("*.dcm"))) == SIZE[2]


def test_an_edited_scan_lies_over_the_scan(infer, study, model):
    entry = study[0] | {"covariates": {"age": 31.0}}
    folder = infer("edit", [entry], covariates={"age": 31.0}, steps=16)
    made = nib.load(folder / "images/volumes_edit_0000.nii.gz")
    scan = nib.load(entry["image"])
    there = resampled(scan.get_fdata(), scan.affine, made.affine, SIZE, 0.0)
    assert np.corrcoef(there.ravel(), made.get_fdata().ravel())[0, 1] > 0.7
    (row,) = csv.DictReader((folder / "images.csv").open())
    assert float(row["psnr"]) > 10
    assert 0 < float(row["ssim"]) <= 1


def test_inpainting_changes_the_masked_voxels_alone(infer, study, tmp_path, save):
    scan = nib.load(study[0]["image"])
    mask = np.zeros(scan.shape, np.uint8)
    mask[8:16, 10:18, 8:16] = 1
    path = save(tmp_path / "mask.nii.gz", mask)
    folder = infer("inpaint", study[:1], mask=str(path), steps=2)
    made = nib.load(folder / "images/volumes_inpaint_0000.nii.gz")
    np.testing.assert_allclose(made.affine, scan.affine, atol=1e-5)
    before, after = scan.get_fdata(), made.get_fdata()
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert (before[mask == 1] != after[mask == 1]).mean() > 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "reconstruct"}, "choose one of generate, edit, inpaint"),
        ({"position": 0.5}, "leave position null"),
        ({"mask": "a.nii.gz"}, "add --mode inpaint"),
        ({"mode": "edit"}, "there is no input"),
        ({"mode": "edit", "inputs": [{"image": "a.nii.gz"}]}, "give --label or --covariates"),
        ({"mode": "inpaint", "inputs": [{"image": "a.nii.gz"}]}, "give the region to draw anew with --mask"),
        ({"mode": "inpaint", "mask": "m", "inputs": [{"image": "a"}]}, "mask m does not exist"),
        ({"mode": "inpaint", "mask": __file__, "inputs": [{"image": "a"}, {"image": "b"}]}, "give one input"),
        ({"mode": "inpaint", "mask": __file__, "inputs": [{"image": "a"}], "guidance": -1}, "guidance is -1"),
        ({"guidance": -1}, "guidance is -1"),
        ({"covariates": {"age": 90}}, "the training images have 30 to 35"),
    ],
)
def test_what_cannot_be_done_is_refused(infer, settings, words):
    with pytest.raises(MedsynthError, match=words):
        infer(**settings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mode": "edit", "label": "MCI"}, "it has the classes AD, NC"),
        ({"mode": "edit", "covariates": {"age": 90}}, "the training images have 30 to 35"),
        ({"mode": "inpaint", "mask": "none.nii.gz"}, "mask none.nii.gz does not exist"),
    ],
)
def test_a_request_is_checked_before_inputs_are_looked_for(model, tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr(recipe, "load_model", lambda path, device: model)
    monkeypatch.setattr(reconstruct, "find_inputs", lambda path: pytest.fail("inputs were looked for"))
    arguments = {"input": "scans", "output_dir": str(tmp_path / "out"), "device": "cpu"} | overrides
    with pytest.raises(Exception, match=".") as refused:
        monai.bundle.run("inference", config_file=str(BUNDLE / "inference.json"), **arguments)
    assert message in as_line(refused.value)


def test_a_mask_on_another_grid_is_resampled_with_a_line_in_the_log(infer, study, tmp_path, save, caplog):
    scan = nib.load(study[0]["image"])
    path = save(tmp_path / "mask.nii.gz", np.ones((4, 4, 4), np.uint8), 2 * np.array(scan.header.get_zooms()))
    infer("inpaint", study[:1], mask=str(path), steps=1)
    assert "mask.nii.gz has another grid (4 x 4 x 4) than its image" in caplog.text


def test_a_mask_that_is_none_is_refused_by_its_name(infer, study, tmp_path, save):
    path = save(tmp_path / "mask.nii.gz", np.arange(8, dtype=np.int16).reshape(2, 2, 2))
    with pytest.raises(MedsynthError, match=r"mask .*mask.nii.gz is no mask: it holds 8 values"):
        infer("inpaint", study[:1], mask=str(path), steps=1)


def test_a_mask_outside_of_the_grid_is_refused(infer, head, tmp_path, save):
    scan, mask = head((80, 80, 80)), np.zeros((80, 80, 80), np.uint8)
    mask[:3, :3, :3] = 1
    entry = {"image": str(save(tmp_path / "scan.nii.gz", scan)), "label": None}
    with pytest.raises(MedsynthError, match="scan.nii.gz lies outside of the region of the mask"):
        infer("inpaint", [entry], mask=str(save(tmp_path / "mask.nii.gz", mask)), steps=1)
