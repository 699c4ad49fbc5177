from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist.layout import survey
from medsynth.errors import MedsynthError


@pytest.fixture
def draw(tmp_path) -> Callable[..., Path]:
    """Write small pictures of these names below a folder, which is returned."""

    def write(*names: str, size: tuple[int, int] = (4, 4), kind: type = np.uint8) -> Path:
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(size, kind)).save(path)
        return tmp_path / "set"

    return write


def facts_of(found, *keys: str) -> dict[str, tuple]:
    """Name of each picture -> what its entry says."""
    return {Path(entry["image"]).name: tuple(entry.get(key) for key in keys) for entry in found.entries}


def subjects(found) -> dict[str, str]:
    return {name: subject for name, (subject,) in facts_of(found, "subject").items()}


def split_subjects(found) -> dict[str, list[str]]:
    return {split: [entry["subject"] for entry in entries] for split, entries in found.splits.items()}


def test_adni_names_give_patient_slice_class_and_split(draw):
    train = [f"AD_NC/train/{label}/{name}.jpeg" for label, name in (("AD", "218391_78"), ("AD", "218391_88"))]
    train += ["AD_NC/train/AD/218392_79.jpeg", "AD_NC/train/NC/808819_90.jpeg", "AD_NC/train/NC/808820_90.jpeg"]
    found = survey(draw(*train, "AD_NC/test/NC/900001_78.jpeg", "AD_NC/test/AD/388206_80.jpeg"))
    assert facts_of(found, "subject", "label", "position") == {
        "218391_78.jpeg": ("218391", "AD", 0.0),
        "218391_88.jpeg": ("218391", "AD", 1.0),
        "218392_79.jpeg": ("218392", "AD", None),
        "808819_90.jpeg": ("808819", "NC", None),
        "808820_90.jpeg": ("808820", "NC", None),
        "900001_78.jpeg": ("900001", "NC", None),
        "388206_80.jpeg": ("388206", "AD", None),
    }
    assert split_subjects(found) == {
        "training": ["218391", "218391", "218392", "808819", "808820"],
        "validation": [],
        "test": ["388206", "900001"],
    }
    assert found.notes == []


def test_oasis_segmentations_belong_to_their_images_and_are_not_images(draw):
    folder = draw(
        *(f"keras_png_slices_data/keras_png_slices_train/case_{n}.nii.png" for n in ("001_slice_0", "001_slice_10")),
        *(f"keras_png_slices_data/keras_png_slices_seg_train/seg_{n}.nii.png" for n in ("001_slice_0", "009_slice_0")),
        "keras_png_slices_data/keras_png_slices_validate/case_002_slice_5.nii.png",
        "keras_png_slices_data/keras_png_slices_train/case_004_slice_5.nii.png",
        "keras_png_slices_data/keras_png_slices_test/case_003_slice_7.nii.png",
        "keras_png_slices_data/keras_png_slices_seg_test/seg_003_slice_7.nii.png",
    )
    found, data = survey(folder), folder / "keras_png_slices_data"
    assert facts_of(found, "subject", "position", "segmentation") == {
        "case_001_slice_0.nii.png": (
            "case_001",
            0.0,
            str(data / "keras_png_slices_seg_train" / "seg_001_slice_0.nii.png"),
        ),
        "case_001_slice_10.nii.png": ("case_001", 1.0, None),
        "case_002_slice_5.nii.png": ("case_002", None, None),
        "case_003_slice_7.nii.png": (
            "case_003",
            None,
            str(data / "keras_png_slices_seg_test" / "seg_003_slice_7.nii.png"),
        ),
        "case_004_slice_5.nii.png": ("case_004", None, None),
    }
    assert {split: len(entries) for split, entries in found.splits.items()} == {
        "training": 3,
        "validation": 1,
        "test": 1,
    }
    assert {path.name: "no image belongs to it" in why for path, why in found.left_out.items()} == {
        "seg_009_slice_0.nii.png": True
    }
    assert all(label == (None,) for label in facts_of(found, "label").values())


def test_masks_of_the_names_of_their_images_lie_in_a_folder_beside_them(draw):
    folder = draw("images/p1_3.png", "images/p2_3.png", "masks/p1_3.png", "masks/p2_3.png")
    assert facts_of(survey(folder), "segmentation") == {
        name: (str(folder / "masks" / name),) for name in ("p1_3.png", "p2_3.png")
    }


def test_a_set_of_names_with_segmentation_in_all_is_taken_as_images(draw):
    assert len(survey(draw("labels/p1_1.png", "labels/p2_1.png")).entries) == 2


def test_two_domains_of_numbered_names_are_of_no_known_patient(draw):
    found = survey(
        draw(
            "images/trainA/ct1001.png", "images/trainB/mri1001.jpg", "images/testA/ct1002.png", "images/testB/mri7.jpg"
        )
    )
    assert found.layout == "domains"
    assert [(entry["subject"], *sorted({"source", "target"} & entry.keys())) for entry in found.entries] == [
        ("images/testA/ct1002", "source"),
        ("images/testB/mri7", "target"),
        ("images/trainA/ct1001", "source"),
        ("images/trainB/mri1001", "target"),
    ]
    assert "pictures each count as a patient of their own" in found.notes[0]
    assert [len(found.splits[split]) for split in ("training", "validation", "test")] == [2, 0, 2]


def test_both_domains_of_a_patient_are_of_one_subject(draw):
    domains, slices = ("trainA/{}_t1_{}.png", "trainB/{}_flair_{}.png"), itertools.product(("s00", "s01"), (3, 5))
    found = survey(draw(*(name.format(*key) for key in slices for name in domains)))
    assert {entry["subject"] for entry in found.entries} == {"s00", "s01"}
    assert sorted(entry["position"] for entry in found.entries) == [0.0] * 4 + [1.0] * 4


def test_pictures_that_are_only_numbered_in_their_class_are_each_a_patient(draw):
    found = survey(draw("Mild_Demented/mild_17.jpg", "Mild_Demented/mild_18.jpg", "Non_Demented/non_17.jpg"))
    assert facts_of(found, "subject", "label", "position") == {
        "mild_17.jpg": ("Mild_Demented/mild_17", "Mild_Demented", None),
        "mild_18.jpg": ("Mild_Demented/mild_18", "Mild_Demented", None),
        "non_17.jpg": ("Non_Demented/non_17", "Non_Demented", None),
    }
    (note,) = found.notes
    assert "pictures each count as a patient of their own, since names such as mild_17.jpg identify none" in note


@pytest.mark.parametrize("names", [("12_3", "12_5", "13_3"), ("p12-slice3", "p12-slice5", "p13-slice3")])
def test_names_in_one_folder_give_patient_and_slice(draw, names):
    found = survey(draw(*(f"{name}.png" for name in names)))
    first, second, other = facts_of(found, "subject", "position").values()
    assert first[0] == second[0] != other[0]
    assert (first[0], other[0]) in {("12", "13"), ("p12", "p13")}
    assert [first[1], second[1], other[1]] == [0.0, 1.0, None]
    assert found.notes == []


def test_oasis_1_names_in_folders_of_classes_give_patient_and_class(draw):
    classes = ("Mild Dementia", "Moderate Dementia", "Non Demented", "Very mild Dementia")
    scans = itertools.product(enumerate(classes), (1, 2), (100, 160))
    found = survey(draw(*(f"{label}/OAS1_{i:04d}_MR1_mpr-{scan}_{number}.jpg" for (i, label), scan, number in scans)))
    for name, (subject, label, position) in facts_of(found, "subject", "label", "position").items():
        assert subject == name[:9]
        assert label == classes[int(name[5:9])]
        assert position == float(name.endswith("_160.jpg"))


@pytest.mark.parametrize("count", [2, 6], ids=["few patients", "many patients"])
def test_patients_in_folders_of_their_own_have_the_class_of_the_folder_above(draw, count):
    names = [f"{label}/{label}p{i}/{number}.png" for label in ("AD", "NC") for i in range(count) for number in (1, 2)]
    found = survey(draw(*names))
    assert found.layout == "subjects"
    assert {(entry["subject"], entry["label"]) for entry in found.entries} == {
        (f"{label}/{label}p{i}", label) for label in ("AD", "NC") for i in range(count)
    }
    assert [entry["position"] for entry in found.entries] == [0.0, 1.0] * (2 * count)


def test_classes_of_several_sites_are_not_patients(draw):
    found = survey(draw(*(f"{site}/grade{n}/{site}{i}_1.png" for site in ("s1", "s2") for n in (1, 2) for i in (4, 5))))
    assert {entry["label"] for entry in found.entries} == {"grade1", "grade2"}


def test_patients_numbered_anew_in_each_folder_are_distinguished(draw):
    found = survey(draw(*(f"{label}/{who}_1.png" for label in ("AD", "NC") for who in ("1", "2", "3"))))
    assert sorted(entry["subject"] for entry in found.entries) == ["AD/1", "AD/2", "AD/3", "NC/1", "NC/2", "NC/3"]
    assert any("same patient and slice numbers occur in several folders" in note for note in found.notes)


def test_a_pattern_gives_patient_and_slice_and_names_without_match_are_left_out(draw):
    folder = draw("a/x7y3.png", "a/x7y9.png", "b/x8y1.png", "b/other.png")
    found = survey(folder, subject_pattern=r"x(?P<subject>\d)y(?P<slice>\d)$")
    assert facts_of(found, "subject", "position", "label") == {
        "x7y3.png": ("7", 0.0, "a"),
        "x7y9.png": ("7", 1.0, "a"),
        "x8y1.png": ("8", None, "b"),
    }
    assert {path.name: why for path, why in found.left_out.items()} == {
        "other.png": r"does not match --subject_pattern x(?P<subject>\d)y(?P<slice>\d)$"
    }
    assert subjects(survey(folder, subject_pattern="(?P<subject>.*)/")) == {
        "x7y3.png": "a",
        "x7y9.png": "a",
        "x8y1.png": "b",
        "other.png": "b",
    }


@pytest.mark.parametrize(
    ("pattern", "line"), [(r"\d+_\d+", "has no group called subject"), ("(?P<subject>", "is not a regular expression")]
)
def test_a_pattern_without_a_patient_is_refused(draw, pattern, line):
    with pytest.raises(MedsynthError, match=line):
        survey(draw("1_1.png"), subject_pattern=pattern)


def test_positions_go_from_the_first_slice_of_a_patient_to_the_last(draw):
    found = survey(draw("p1_20.png", "p1_25.png", "p1_30.png", "p2_4.png"))
    assert [entry.get("position") for entry in found.entries] == [0.0, 0.5, 1.0, None]


def test_patients_of_one_picture_have_no_position_and_a_note_says_so(draw):
    found = survey(draw("p1_20.png", "p2_25.png"))
    assert all("position" not in entry for entry in found.entries)
    assert found.notes == ["each patient has one picture: slice positions are unknown"]


def test_sizes_that_differ_within_a_patient_are_noted_and_between_patients_are_not(draw):
    draw("p1_1.png", "p1_2.png")
    assert survey(draw("p2_1.png", "p2_2.png", size=(5, 6))).notes == []
    (note,) = survey(draw("p1_3.png", size=(5, 6))).notes
    assert "1 patients have pictures of several sizes, such as p1" in note
    assert "4 x 4" in note


def test_8_bits_beside_16_are_noted_with_their_numbers(draw):
    draw("p1_1.png", "p1_2.png")
    (note,) = survey(draw("p2_1.png", kind=np.uint16)).notes
    assert "2 of 8 bits, 1 of 16 bits" in note


def test_a_single_class_is_noted(draw):
    folder = draw("AD/p1_1.png", "AD/p1_2.png", "AD/p2_1.png")
    found = survey(folder, {"p1": "AD", "p2": "AD"})
    assert [note for note in found.notes if "class" in note] == [
        "there is only one class, AD: classes cannot be compared"
    ]
    assert not [note for note in survey(folder, {"p1": "AD", "p2": "NC"}).notes if "class" in note]
