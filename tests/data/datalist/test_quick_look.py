from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.pairs import find_pairs
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


@pytest.mark.parametrize("scaled", [lambda share: np.uint8(share * 255), lambda share: share])
@pytest.mark.parametrize("name", ["b.nii.gz", "sub-b_T1w.nii.gz"])
def test_volumes_as_after_a_window_are_noted_unless_their_name_says_mri(tmp_path, save, head, scaled, name):
    save(tmp_path / "a.nii.gz", head())
    save(tmp_path / name, scaled(head(seed=1) / head(seed=1).max()))
    notes = [note for note in looked_at(tmp_path).notes if "window" in note]
    if "T1w" in name:
        assert notes == []
    else:
        assert notes[0].startswith("1 images hold values from 0 to 255 or up to 1, as CT after a window: b.nii.gz: if")
        assert "export them again in Hounsfield units (air -1000, water 0)" in notes[0]


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


def ct_head(head) -> np.ndarray:
    """A head of soft tissue with some bone, in Hounsfield units."""
    shape = head()
    return np.select([shape > 300, shape > 0], [900, 40], -1000).astype(np.int32) + shape % 7


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda hu: hu + 32768, "is read, with --modality ct, with 32,768 subtracted, so that air has -1000 HU"),
        (lambda hu: hu + 8192, "with 8,192 subtracted"),
        (lambda hu: hu + 1024, "with 1,024 subtracted"),
        (lambda hu: hu + 1000, "with 1,000 subtracted"),
        (lambda hu: hu.astype(np.int16).view(np.uint16), "with 65,536 subtracted from negative values"),
        (lambda hu: (np.clip(hu + 100, 0, 400) / 400 * 255).astype(np.uint8), "with --modality ct, as it holds values"),
        (lambda hu: (np.clip(hu + 1000, 0, 2000) / 2000).astype(np.float32), "as after a window"),
    ],
)
def test_ct_that_is_not_in_hounsfield_units_is_noted_once(tmp_path, save, head, change, line):
    for name in ("a_ct", "b_ct"):
        save(tmp_path / f"{name}.nii.gz", change(ct_head(head)))
    notes = [note for note in looked_at(tmp_path).notes if "modality ct" in note]
    assert len(notes) == 1
    assert "a_ct.nii.gz" in notes[0]
    assert line in notes[0]
    assert notes[0].endswith("(and 1 similar)")


def test_hounsfield_units_and_mri_are_not_noted(tmp_path, save, head):
    padded = ct_head(head)
    padded[:3] = -3024
    for name, values in (("a_ct", ct_head(head)), ("b_ct", padded)):
        save(tmp_path / f"{name}.nii.gz", values)
    save(tmp_path / "mri" / "a.nii.gz", head() * 50)
    save(tmp_path / "mri" / "b.nii.gz", head())
    assert not [note for note in looked_at(tmp_path / "mri").notes if "modality ct" in note]
    (tmp_path / "mri" / "a.nii.gz").unlink()
    (tmp_path / "mri" / "b.nii.gz").unlink()
    assert not [note for note in looked_at(tmp_path).notes if "modality ct" in note]


def test_ct_with_a_large_offset_needs_no_name(tmp_path, save, head):
    save(tmp_path / "a.nii.gz", ct_head(head) + 32768)
    save(tmp_path / "b.nii.gz", ct_head(head) + 8192)
    save(tmp_path / "c.nii.gz", ct_head(head).astype(np.int16).view(np.uint16))
    assert len([note for note in looked_at(tmp_path).notes if "is read, with --modality ct" in note]) == 3


def test_ct_of_pairs_is_looked_at(tmp_path, save, head):
    for name in ("p1", "p2"):
        save(tmp_path / name / "mr.nii.gz", head())
        save(tmp_path / name / "ct.nii.gz", ct_head(head) + 1024)
    found = find_pairs(tmp_path, "mr.nii.gz", "ct.nii.gz")
    look(found)
    assert "p1/ct.nii.gz is read, with --modality ct, with 1,024 subtracted" in found.notes[-1]


def test_pictures_that_do_not_fill_their_bits_or_have_no_range_are_noted(tmp_path):
    for name, values in (("a", np.arange(4080)), ("b", np.arange(300)), ("c", np.zeros(9))):
        Image.fromarray(np.resize(values, (64, 64)).astype(np.uint16)).save(tmp_path / f"{name}.png")
    assert (
        "pictures of 16 bits hold values up to 4079: training takes 0 as black and 4095 as white, unless "
        "--window '[low, high]' states others"
    ) in looked_at(tmp_path).notes
    Image.fromarray(np.float32([[-1000, 3], [4, 900]])).save(tmp_path / "d.tif")
    assert looked_at(tmp_path).notes[-1] == (
        "1 pictures hold signed or real values, from -1000 to 900, such as d.tif: state black and white in training, "
        "such as --window '[-1000, 900]'"
    )
