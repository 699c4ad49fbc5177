from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

from medsynth.data.io.writing import nifti
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.evaluation.report.compared_sets import maps_in_words
from medsynth.evaluation.report.synthetic import SyntheticFile, choose, find, read_slices
from medsynth.inference.image_folder import ImageFolder

SPACE = SliceSpace("mri", (2.0, 2.0), 3.0, None)


@pytest.fixture
def upright() -> np.ndarray:
    """(8, 6) rows from front to back, columns from the patient's right, in [0, 1], no symmetry."""
    return (np.arange(48).reshape(8, 6) / 47).astype(np.float32)


def save(folder, name, values, sidecar=None):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.nii.gz").write_bytes(nifti(values[..., None], SPACE.affine(values.shape)))
    if sidecar is not None:
        (folder / f"{name}.json").write_text(json.dumps({"Preprocessing": {}} | sidecar))


def test_a_generated_slice_comes_back_as_it_was_in_0_to_1_by_its_sidecar(tmp_path, upright):
    save(tmp_path, "a", upright * 400 - 100, {"IntensityBounds": [-100, 300], "Label": "AD", "Position": 0.25})
    (file,) = find(str(tmp_path))
    assert (file.label, file.position) == ("AD", 0.25)
    images, good, bad = read_slices([file], None, 0.1)
    assert images[0] == pytest.approx(upright, abs=1e-6)
    assert (good, bad) == ([0], [])


def test_a_generated_png_is_read_as_its_nifti_would_be(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(8, 6, 1)
    sidecar = {"Preprocessing": {}, "IntensityBounds": [0, 64], "Label": "AD"}
    found = []
    for format in ("nifti", "png"):
        output = ImageFolder(tmp_path / format, "toy", "", format=format)
        output.write("0", pixels, SPACE.affine((8, 6)), {}, sidecar)
        output.finish(torch.zeros(1, 1, 8, 8))
        found += find(str(output.folder))
    assert [file.label for file in found] == ["AD", "AD"]
    images, *_ = read_slices(found, None, 0.0)
    assert images == pytest.approx(np.stack([pixels[..., 0] / 64] * 2))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ALS", "LAI"])
def test_a_slice_of_any_orientation_is_read_upright(tmp_path, upright, codes):
    image = nib.Nifti1Image(upright[..., None], SPACE.affine((8, 6)))
    turn = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    turned.header.set_xyzt_units("mm")
    nib.save(turned, tmp_path / "a.nii.gz")
    images, *_ = read_slices(find(str(tmp_path)), None, 0.1)
    assert images[0] == pytest.approx(upright, abs=1e-6)


@pytest.mark.parametrize("layout", ["images", "imagesTr"])
def test_the_images_of_an_inference_folder_are_found_without_its_grid(tmp_path, upright, layout):
    save(tmp_path / layout, "a", upright)
    save(tmp_path / "labelsTr", "a", upright)
    (tmp_path / "images.csv").write_text("file\n")
    (tmp_path / "grid.png").write_bytes(b"")
    assert [file.path.name for file in find(str(tmp_path))] == ["a.nii.gz"]


def test_unusable_images_are_named_and_too_many_of_them_stop_it(tmp_path, upright):
    for i in range(10):
        save(tmp_path, str(i), upright if i else upright * np.nan)
    images, good, bad = read_slices(find(str(tmp_path)), None, 0.1)
    assert len(images) == 9
    assert good == list(range(1, 10))
    assert "0.nii.gz has values that are not finite" in bad[0]
    with pytest.raises(MedsynthError, match="1 of 10 synthetic images cannot be used, and at most 5% may"):
        read_slices(find(str(tmp_path)), None, 0.05)


def test_a_choice_of_images_is_the_same_for_a_seed_and_in_order(tmp_path, upright):
    for i in range(20):
        save(tmp_path, f"{i:02d}", upright)
    files = find(str(tmp_path))
    names = [[file.path.name for file in choose(files, 5, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] == sorted(names[0])
    assert names[0] != names[2]
    assert choose(files, None, 0) == files


def test_whose_label_maps_images_are_of_is_said_and_held_out_ones_are_warned_of(tmp_path, caplog):
    entries = []
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        entries.append({"segmentation": str(tmp_path / name)})
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in "aabc"]
    files = [
        SyntheticFile(tmp_path, {"SegmentationDigest": digest, "SegmentationOrigin": "deformed"}, None)
        for digest in digests
    ]
    said = maps_in_words(files, entries[:1], entries[1:])
    assert said == "deformed, of training patients (2), held-out patients (1), others (1)"
    assert "1 synthetic images are of label maps of held-out patients" in caplog.text
    assert maps_in_words([SyntheticFile(tmp_path, {}, None)], entries, []) is None
    drawn = SyntheticFile(tmp_path, {"SegmentationOrigin": "drawn"}, None)
    assert maps_in_words([drawn, drawn], entries, []) == "drawn by the model (2)"
