from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from scipy import ndimage

from medsynth.data.datalist import datalist
from medsynth.errors import as_line
from medsynth.inference.generate import Request
from medsynth.inference.image_folder import read_sidecar
from medsynth.models.vaegan.edit import MARGIN_MM, MARGIN_PIXELS, Edit
from medsynth.run.recipe import load_model


@pytest.fixture
def edit(infer):
    """Run the bundle in mode edit; returns the rows of images.csv."""

    def run(checkpoint: Path, scan: Path, segmentations: Path | None, **overrides: object) -> list[dict[str, str]]:
        return infer(checkpoint, segmentations, **{"mode": "edit", "input": str(scan)} | overrides)

    return run


@pytest.fixture
def scan(tmp_path, head, save) -> Callable[..., Path]:
    """Save a head with its label map beside it, and a changed one of the same name in `changed`."""

    def write(name: str = "a", orientation: str = "RAS", grown: int = 4, code: int = 5) -> Path:
        labels = np.zeros((40, 36, 8), np.int16)
        labels[8:14, 8:24, 1:7], labels[14:18, 8:24, 1:7] = 2, 5
        path = save(tmp_path / "scans" / f"{name}_T1w.nii.gz", head((40, 36, 8)), orientation=orientation)
        save(tmp_path / "scans" / f"{name}_dseg.nii.gz", labels, orientation=orientation)
        labels[18 : 18 + grown, 12:20, 2:6] = code
        save(tmp_path / "changed" / f"{name}_dseg.nii.gz", labels, orientation=orientation)
        return path

    return write


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_an_image_changes_near_its_change_and_is_the_scan_bit_for_bit_elsewhere(
    edit, checkpoint, scan, tmp_path, orientation
):
    path = scan(orientation=orientation)
    changed = tmp_path / "changed" / "a_dseg.nii.gz"
    (row,) = edit(checkpoint, path, changed)
    before, after = nib.load(path), nib.load(tmp_path / "out" / row["file"])
    np.testing.assert_array_equal(after.affine, before.affine)
    own, new = (nib.load(one).get_fdata() for one in (path.with_name("a_dseg.nii.gz"), changed))
    away = ndimage.distance_transform_edt(own == new, before.header.get_zooms())
    found, there = after.get_fdata(), before.get_fdata()
    assert found.shape == there.shape
    far = away >= MARGIN_MM
    np.testing.assert_array_equal(found[far], there[far])
    assert (found != there)[~far].mean() > 0.25
    assert (found == np.round(found)).all()
    step = [np.abs(found - there)[(away > low) & (away <= low + 2.5)].mean() for low in (0.0, 7.5)]
    assert step[1] < 0.5 * step[0]  # it fades
    np.testing.assert_array_equal(nib.load(tmp_path / "out" / row["segmentation"]).get_fdata(), new)
    assert "5\tright lobe" in (tmp_path / "out" / "segmentations" / "dseg.tsv").read_text()
    assert row["changedvoxels"] == str(int((own != new).sum()))
    sidecar = read_sidecar(tmp_path / "out" / row["file"])
    assert (sidecar["Mode"], sidecar["SegmentationOrigin"], sidecar["Synthetic"]) == ("edit", "given", True)


def test_of_a_folder_or_a_datalist_those_with_a_changed_map_are_edited(edit, checkpoint, scan, tmp_path):
    paths = [scan(name) for name in ("a", "b")]
    (tmp_path / "changed" / "a_dseg.nii.gz").unlink()
    (of_folder,) = edit(checkpoint, tmp_path / "scans", tmp_path / "changed")
    images = [nib.load(tmp_path / "out" / of_folder["file"]).get_fdata()]
    maps = tmp_path / "labels"
    maps.mkdir()
    for one in (tmp_path / "scans").glob("*_dseg.nii.gz"):
        one.rename(maps / one.name)
    entries = [
        {"image": str(path), "segmentation": str(maps / f"{name}_dseg.nii.gz"), "subject": name, "label": "NC"}
        for name, path in zip("ab", paths, strict=True)
    ]
    listed = datalist.Datalist("a", {"training": entries, "validation": [], "test": []})
    datalist.write(tmp_path / "list.json", listed)
    (row,) = edit(checkpoint, tmp_path / "list.json", tmp_path / "changed")
    assert (row["label"], row["split"]) == ("NC", "training")
    (row,) = edit(checkpoint, tmp_path / "list.json", tmp_path / "changed" / "b_dseg.nii.gz", label="AD")
    assert row["label"] == "AD"
    images.append(nib.load(tmp_path / "out" / row["file"]).get_fdata())
    assert not np.array_equal(*images)


def test_dicom_comes_with_its_label_map_as_dicom_seg(edit, checkpoint, scan, tmp_path):
    seg = pytest.importorskip("highdicom").seg
    path = scan()
    edit(checkpoint, path, tmp_path / "changed", dicom=True)
    folder = tmp_path / "out" / "dicom"
    found = seg.segread(folder / "vaegan_edit_0000_dseg.dcm")
    slices = [pydicom.dcmread(file) for file in sorted((folder / "vaegan_edit_0000").glob("*.dcm"))]
    names = [found.get_segment_description(number).segment_label for number in (1, 2)]
    assert names == ["left lobe", "right lobe"]
    assert (found.StudyInstanceUID, found.SyntheticData) == (slices[0].StudyInstanceUID, "YES")
    planes = found.get_pixels_by_source_instance([one.SOPInstanceUID for one in slices], combine_segments=True)
    new = nib.load(tmp_path / "changed" / "a_dseg.nii.gz").get_fdata()
    np.testing.assert_array_equal(np.array([0, 2, 5])[planes], new.transpose(2, 1, 0))


def test_dicom_seg_without_highdicom_is_refused_in_a_line(edit, checkpoint, scan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(Exception, match=".") as stopped:
        edit(checkpoint, scan(), tmp_path / "changed", dicom=True)
    assert "DICOM SEG needs highdicom: pip install highdicom" in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_picture_changes_near_its_change_alone(edit, checkpoint_of_pictures, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    labels = np.zeros((16, 16), np.uint8)
    labels[3:6, 3:6] = 5
    (tmp_path / "changed").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "a_seg.png")
    changed = labels.copy()
    changed[6:8, 3:6] = 5
    Image.fromarray(changed).save(tmp_path / "changed" / "a.png")
    (row,) = edit(checkpoint_of_pictures, tmp_path / "a.png", tmp_path / "changed", format="png")
    found = np.asarray(Image.open(tmp_path / "out" / row["file"]))
    far = ndimage.distance_transform_edt(labels == changed) >= MARGIN_PIXELS
    np.testing.assert_array_equal(found[far], pixels[far])
    assert (found != pixels)[~far].mean() > 0.5
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["segmentation"])), changed)


def test_an_edit_to_an_images_own_label_map_is_its_reconstruction_and_to_another_is_not(checkpoint):
    model = load_model(checkpoint)
    torch.manual_seed(0)
    slices, own, other = torch.rand(2, 1, 16, 16), *torch.randint(0, 3, (2, 2, 1, 16, 16))
    facts = torch.tensor([0, 1]), torch.tensor([0.2, 0.7]), torch.zeros(2, 0)
    edit = Edit(Request(1, None, None, 0), None, {"steps": 40, "guidance": 1.0})
    with torch.inference_mode():
        reconstructed = model.network(slices)
        away = [(edit(slices, model.network, *facts, own, new) - reconstructed).abs().max() for new in (own, other)]
    assert away[0] < 0.02 < away[1]


def test_mistakes_of_changed_label_maps_are_one_line_and_write_nothing(
    edit, checkpoint, model_pt, scan, save, tmp_path
):
    path, changed, listed = scan(), tmp_path / "changed" / "a_dseg.nii.gz", tmp_path / "list.json"
    listed.touch()

    def refused(segmentations: Path | None = changed, model: Path = checkpoint, **more: object) -> str:
        with pytest.raises(Exception, match=".") as stopped:
            edit(model, more.pop("input", path), segmentations, **more)
        assert not (tmp_path / "out").exists()
        return as_line(stopped.value)

    assert "none does not exist: give a label map" in refused(tmp_path / "none")
    assert "list.json: give a changed label map, or a folder" in refused(listed)
    assert "deform changes nothing" in refused(deform=1.0)
    assert "dicom is 'yes': give true or false" in refused(dicom="yes")
    assert "dicom is for volumes that label maps change" in refused(None, dicom=True, label="AD")
    assert "there is nothing to change" in refused(path.with_name("a_dseg.nii.gz"))
    scan(grown=0)
    assert "is equal to it: there is nothing to change" in refused()
    save(changed, np.zeros(nib.load(path).shape, np.int16))
    assert "a_dseg.nii.gz that is empty: it holds nothing but 0" in refused()
    scan(code=7)
    assert "holds the code 7, and the classes have 0, 2, 5" in refused()
    save(changed, np.zeros((40, 36, 9), np.int16))
    assert "a_dseg.nii.gz is on another grid" in refused()
    changed.with_name("dseg.tsv").write_text("index\tname\n5\tleft lobe\n")
    assert "code 5 is left lobe in" in refused()
    changed.with_name("dseg.tsv").unlink()
    scan("b")
    changed.rename(changed.with_name("other.nii.gz"))
    assert "holds no file of the name of an image's own label map, such as a_dseg.nii.gz" in refused(
        changed.with_name("other.nii.gz"), input=tmp_path / "scans"
    )
    path.with_name("a_dseg.nii.gz").unlink()
    assert "a_T1w.nii.gz has no label map of its own" in refused(tmp_path / "changed")
    assert "the model learned without label maps: train one with" in refused(tmp_path / "changed", model_pt())
