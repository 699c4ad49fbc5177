from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.datalist import datalist
from medsynth.data.datalist.segmentations import segmentation_classes
from medsynth.errors import MedsynthError


@pytest.fixture
def labelled(tmp_path: Path, head: Callable, save: Callable) -> Path:
    """Six heads, of which subject 1 is one and subject 10 another, and their label maps in another folder."""
    for number in (1, 2, 3, 4, 5, 10):
        volume = head(seed=number)
        save(tmp_path / "scans" / f"Subj{number}_T1w.nii.gz", volume)
        save(tmp_path / "maps" / f"Subj{number}_dseg.nii.gz", (volume > 0).astype(np.int16) * 2, orientation="LPS")
    return tmp_path


def failed(make: Callable, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The line that the tool ends with."""
    with pytest.raises(SystemExit) as stop:
        make(*arguments)
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_each_image_gets_its_label_map_and_the_list_their_classes(make, labelled, capsys):
    (labelled / "maps" / "dseg.tsv").write_text("index\tname\n0\tair\n2\tbrain\n5\tlesion\n")
    make(labelled / "scans", labelled / "out.json", "--segmentation", labelled / "maps" / "*_dseg.nii.gz")
    read = datalist.read(labelled / "out.json")
    assert read.segmentation_classes == {0: "air", 2: "brain"}
    assert segmentation_classes(read, True) == {0: "air", 2: "brain"}
    assert segmentation_classes(read, False) == {}
    for entry in read.entries:
        assert Path(entry["segmentation"]) == labelled / "maps" / f"{entry['subject']}_dseg.nii.gz"
    said = capsys.readouterr().out
    assert "2 is brain: " in said
    assert f"no label map holds lesion, which {labelled / 'maps' / 'dseg.tsv'} names" in said


def test_names_are_read_as_nnunet_and_as_the_decathlon_write_them(make, labelled):
    for labels in ({"background": 0, "brain": 2, "whole": [1, 2]}, {"0": "background", "2": "brain"}):
        (labelled / "maps" / "dataset.json").write_text(json.dumps({"labels": labels}))
        pattern = ("--segmentation", labelled / "maps" / "*_dseg.nii.gz", "--overwrite")
        make(labelled / "scans", labelled / "out.json", *pattern)
        assert datalist.read(labelled / "out.json").segmentation_classes == {0: "background", 2: "brain"}


def test_label_maps_beside_their_images_are_listed_with_classes_by_themselves(make, labelled):
    (labelled / "maps").rename(labelled / "scans" / "segmentations")
    make(labelled / "scans", labelled / "out.json")
    read = datalist.read(labelled / "out.json")
    assert read.segmentation_classes == {0: "background", 2: "class_2"}
    assert all("segmentation" in entry for entry in read.entries)


def test_label_maps_beside_pairs_are_listed_and_not_counted(make, labelled, capsys):
    (labelled / "maps").rename(labelled / "scans" / "segmentations")
    for image in sorted((labelled / "scans").glob("*_T1w.nii.gz")):
        shutil.copy(image, str(image).replace("T1w", "FLAIR"))
    make(labelled / "scans", labelled / "out.json", "--source", "*_T1w.nii.gz", "--target", "*_FLAIR.nii.gz")
    written = json.loads((labelled / "out.json").read_text())
    assert all("segmentation" in entry for entry in written["training"])
    assert "labels" not in written
    assert "background" not in capsys.readouterr().out


def test_wrong_label_maps_are_refused_in_a_line(make, labelled, save, capsys):
    def run(pattern: str = "*_dseg.nii.gz") -> str:
        arguments = ("--segmentation", labelled / "maps" / pattern)
        return failed(make, capsys, labelled / "scans", labelled / "out.json", *arguments)

    assert "no file fits --segmentation" in run("*_seg.nii.gz")
    (labelled / "maps" / "dseg.tsv").write_text("index\tname\n1\tbrain\n")
    assert "holds the code 2, and" in run()
    (labelled / "maps" / "dseg.tsv").unlink()
    save(labelled / "maps" / "Subj4_dseg.nii.gz", np.ones((24, 30, 25), np.int16))
    assert "Subj4_T1w.nii.gz is on another grid (24 x 30 x 25) than its image (24 x 30 x 26)" in run()
    affine = nib.load(labelled / "scans" / "Subj4_T1w.nii.gz").affine
    affine[:3, 3] += (3, 0, 4)
    nib.save(nib.Nifti1Image(np.ones((24, 30, 26), np.uint8), affine), labelled / "maps" / "Subj4_dseg.nii.gz")
    assert "Subj4_T1w.nii.gz has the size of its image and lies up to 5.0 mm away from it: if it is this" in run()
    assert f"--segmentation {labelled / 'maps'} is a folder: name the files in it" in run("")
    (labelled / "maps" / "Subj4_dseg.nii.gz").unlink()
    assert "1 of 6 images have no label map named" in run()
    assert not (labelled / "out.json").exists()


def test_use_segmentation_needs_label_maps_with_classes(make, labelled):
    make(labelled / "scans", labelled / "out.json")
    with pytest.raises(MedsynthError, match="use_segmentation is true, and the datalist out has no label maps with"):
        segmentation_classes(datalist.read(labelled / "out.json"), True)
