from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth.data.layout import read_participants, subject_of, survey
from medsynth.errors import MedsynthError

VOLUME = np.arange(27, dtype=np.int16).reshape(3, 3, 3)


@pytest.mark.parametrize(
    ("path", "arrangement", "known", "subject"),
    [
        ("IXI034-HH-1260_T1w.nii.gz", "flat", ["IXI034-HH-1260", "IXI034"], "IXI034-HH-1260"),
        ("IXI034-HH-1260-T1.nii.gz", "flat", [], "IXI034-HH-1260"),
        ("sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz", "subjects", [], "sub-01"),
        ("OAS1_0001_MR1_mpr-1_100.jpg", "classes", [], "OAS1_0001"),
        ("ADNI_002_S_0295_MR_T1.nii", "flat", [], "002_S_0295"),
        ("patient7_FLAIR.nii.gz", "flat", [], "patient7"),
        ("Smith/visit2/t1.nii.gz", "subjects", [], "Smith"),
        ("brain/1BA001/mr.nii.gz", "subjects", [], "brain/1BA001"),
        ("brain/1BA001/mr.nii.gz", "subjects", ["1BA001", "1BA0012"], "1BA001"),
        ("T1/p12.nii.gz", "flat", ["p1"], "p12"),
        ("AD/17.png", "classes", [], "AD/17"),
    ],
)
def test_a_subject_is_told_from_folders_and_names(path, arrangement, known, subject):
    assert subject_of(Path(path), arrangement, known) == subject


def test_a_table_gives_classes_and_unknown_ones_are_none(tmp_path):
    (tmp_path / "p.tsv").write_text("participant_id\tage\tgroup\na\t3\tAD\nb\t4\tn/a\nc\t5\t NC \n")
    assert read_participants(tmp_path / "p.tsv", "group") == {"a": "AD", "b": None, "c": "NC"}
    (tmp_path / "p.csv").write_text("participant_id,group\na,AD\n")
    assert read_participants(tmp_path / "p.csv") == {"a": None}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("participant_id\tgroup\na\tAD\n", "no column groups, only participant_id, group: did you mean group"),
        ("name\tgroups\na\tAD\n", "no column participant_id, only name, groups"),
        ("", "only nothing"),
    ],
)
def test_a_column_that_is_not_there_is_named(tmp_path, text, line):
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(MedsynthError, match=line):
        read_participants(tmp_path / "p.tsv", "groups")


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path, save):
    save(tmp_path / "a_T1w.nii.gz", VOLUME)
    (tmp_path / "b_T1w.nii.gz").write_bytes(b"torn")
    found = survey(tmp_path)
    assert [entry["subject"] for entry in found.entries] == ["a"]
    assert [path.name for path in found.left_out] == ["b_T1w.nii.gz"]
    (tmp_path / "a_T1w.nii.gz").unlink()
    with pytest.raises(MedsynthError, match=r"none of the 1 images .* b_T1w\.nii\.gz cannot be read"):
        survey(tmp_path)


def test_contrasts_in_one_list_are_noted_and_can_be_chosen(tmp_path, save):
    for subject in "ab":
        save(tmp_path / f"{subject}_T1w.nii.gz", VOLUME)
        save(tmp_path / f"{subject}_FLAIR.nii.gz", VOLUME)
    found = survey(tmp_path)
    assert found.contrasts == ["FLAIR", "T1w"]
    assert "choose with --pattern" in found.notes[0]
    assert {entry["subject"] for entry in found.entries} == {"a", "b"}
    chosen = survey(tmp_path, pattern="*_T1w*")
    assert (chosen.contrasts, chosen.notes, len(chosen.entries)) == (["T1w"], [], 2)


def test_folders_of_pictures_are_classes(tmp_path):
    for name in ("AD/1.png", "AD/2.png", "NC/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    found = survey(tmp_path)
    assert [(entry["subject"], entry["label"]) for entry in found.entries] == [
        ("AD/1", "AD"),
        ("AD/2", "AD"),
        ("NC/1", "NC"),
    ]


def test_participants_without_a_row_are_counted_and_a_table_of_others_is_refused(tmp_path, save):
    for name in "abc":
        save(tmp_path / f"{name}.nii.gz", VOLUME)
    found = survey(tmp_path, {"a": "AD"})
    assert [entry["label"] for entry in found.entries] == ["AD", None, None]
    assert found.notes == ["2 subjects are not in the table of participants, and have no class: b, c"]
    with pytest.raises(MedsynthError, match="ids such as x, and the images are of a"):
        survey(tmp_path, {"x": "AD"})


def test_an_empty_folder_is_told_what_is_needed(tmp_path):
    with pytest.raises(MedsynthError, match=r"holds no image named \*: \.nii"):
        survey(tmp_path)
