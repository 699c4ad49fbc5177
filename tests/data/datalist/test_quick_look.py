from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.quick_look import is_label_map, is_probability_map, look
from medsynth.errors import MedsynthError


def looked_at(folder: Path):
    found = survey(folder)
    look(found)
    return found


def reasons(found) -> dict[str, str]:
    return {path.name: reason for path, reason in found.left_out.items()}


@pytest.mark.parametrize(
    ("value", "line"),
    [(np.nan, "are NaN or infinite"), (0.0, "holds the same value everywhere"), (np.inf, "are NaN or infinite")],
)
def test_a_volume_without_a_scan_is_left_out_and_said(tmp_path, save, head, value, line):
    save(tmp_path / "a.nii.gz", head())
    save(tmp_path / "b.nii.gz", np.full((9, 9, 9), value, np.float32))
    found = looked_at(tmp_path)
    assert [entry["subject"] for entry in found.entries] == ["a"]
    assert line in reasons(found)["b.nii.gz"]
    assert [header.shape for header in found.headers] == [(30, 24, 26)]
    (tmp_path / "a.nii.gz").unlink()
    with pytest.raises(MedsynthError, match=r"none of the 1 images can be used: .*b.nii.gz"):
        looked_at(tmp_path)


def test_label_maps_of_any_name_are_left_out(tmp_path, save, head):
    save(tmp_path / "a.nii.gz", head())
    labels = np.digitize(head(), (1, 300)).astype(np.uint8)
    save(tmp_path / "b.nii.gz", labels)
    found = looked_at(tmp_path)
    assert [entry["subject"] for entry in found.entries] == ["a"]
    assert "is a label map by its values" in reasons(found)["b.nii.gz"]


def test_a_list_of_label_maps_alone_is_kept_and_said(tmp_path, save, head):
    save(tmp_path / "b.nii.gz", np.digitize(head(), (1, 300)).astype(np.uint8))
    found = looked_at(tmp_path)
    assert len(found.entries) == 1
    assert found.notes == ["all images are label maps by their values: whole numbers in even areas"]


@pytest.mark.parametrize("levels", [20, 256, 2000])
def test_images_of_few_grey_values_are_no_label_maps(head, levels):
    volume = head().astype(float)
    assert not is_label_map(np.round(volume / volume.max() * levels))


def test_4d_probability_maps_are_said_and_4d_images_are_not(tmp_path, save, head):
    save(tmp_path / "a.nii.gz", head())
    shares = np.stack([head() / 400.0, 1 - head() / 400.0], -1).astype(np.float32)
    nib.save(nib.Nifti1Image(shares, np.eye(4)), tmp_path / "tissues.nii.gz")
    nib.save(nib.Nifti1Image(shares * 900, np.eye(4)), tmp_path / "bold.nii.gz")
    found = looked_at(tmp_path)
    assert reasons(found)["tissues.nii.gz"] == "is a 4D probability map by its values"
    assert "pick a frame" in reasons(found)["bold.nii.gz"]
    picked = survey(tmp_path, frame=0)
    look(picked)
    assert [Path(entry["image"]).name for entry in picked.entries] == ["a.nii.gz", "bold.nii.gz"]
    assert not is_probability_map(tmp_path / "a.nii.gz")


def test_values_of_mri_and_ct_in_one_set_are_refused(tmp_path, save, head):
    save(tmp_path / "a.nii.gz", head())
    save(tmp_path / "b.nii.gz", (head(seed=1) - 1000).astype(np.int16))
    with pytest.raises(
        MedsynthError, match=r"1 images have values as CT has, below -500, such as b.nii.gz, and 1 have"
    ):
        looked_at(tmp_path)


def test_black_pictures_are_noted_and_kept(tmp_path):
    for name, value in (("p1_1", 0), ("p1_2", 3), ("p2_1", 4)):
        grey = np.zeros((4, 4), np.uint8)
        grey[0, 0] = value
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
    found = looked_at(tmp_path)
    assert len(found.entries) == 3
    assert "1 pictures hold the same value everywhere: p1_1.png" in found.notes


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda mask: mask * 0, "of subject p1 is an empty mask: give one that is above 0"),
        (
            lambda mask: mask * np.arange(26, dtype=np.uint8),
            "of subject p1 is no mask: it holds 21 values from 0 to 22",
        ),
        (lambda mask: mask.astype(np.float32) - 1, "of subject p1 is no mask: it holds 2 values from -1 to 0"),
    ],
)
def test_a_mask_that_is_none_is_left_out_with_its_subject(tmp_path, save, head, change, line):
    save(tmp_path / "p1" / "mr.nii.gz", head())
    save(tmp_path / "p1" / "mask.nii.gz", change((head() > 0).astype(np.uint8)))
    found = looked_at(tmp_path)
    assert "mask" not in found.entries[0]
    assert line in reasons(found)["mask.nii.gz"]


def test_a_mask_on_another_grid_is_kept_and_said(tmp_path, save, head):
    save(tmp_path / "p1" / "mr.nii.gz", head())
    save(tmp_path / "p1" / "mask.nii.gz", (head()[::2, ::2, ::2] > 0).astype(np.uint8), mm=(4, 4, 4))
    found = looked_at(tmp_path)
    assert "mask" in found.entries[0]
    assert "mask.nii.gz of subject p1 has another grid (12 x 15 x 13) than its image (24 x 30 x 26)" in found.notes[-1]
