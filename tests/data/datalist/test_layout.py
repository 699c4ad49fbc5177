from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist.layout import subject_of, survey
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
def test_a_subject_is_found_from_folders_and_names(path, arrangement, known, subject):
    assert subject_of(Path(path), arrangement, known) == subject


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path, save):
    save(tmp_path / "a_T1w.nii.gz", VOLUME)
    (tmp_path / "b_T1w.nii.gz").write_bytes(b"damaged")
    found = survey(tmp_path)
    assert [entry["subject"] for entry in found.entries] == ["a"]
    assert [path.name for path in found.left_out] == ["b_T1w.nii.gz"]
    (tmp_path / "a_T1w.nii.gz").unlink()
    with pytest.raises(MedsynthError, match=r"none of the 1 images .*b_T1w.nii.gz cannot be read"):
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
    assert found.notes == ["2 subjects are not in the table of participants and have no class: b, c"]
    with pytest.raises(MedsynthError, match="ids such as x, and the images are of a"):
        survey(tmp_path, {"x": "AD"})


def test_a_table_without_classes_leaves_pictures_those_of_their_folders(tmp_path):
    for name in ("AD/p1_1.png", "NC/p2_1.png"):
        picture(tmp_path / name)
    found = survey(tmp_path, {"p1": None})
    assert [(entry["subject"], entry["label"]) for entry in found.entries] == [("p1", "AD"), ("NC/p2_1", "NC")]
    assert "1 subjects are not in the table of participants: NC/p2_1" in found.notes
    rows = ("image,subject,label", "AD/p1_1.png,p1,sick", "NC/p2_1.png,p2,well")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    listed = survey(tmp_path / "list.csv", {"p1": None, "p2": None})
    assert [entry["label"] for entry in listed.entries] == ["sick", "well"]


def test_an_empty_folder_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(MedsynthError, match=r"holds no image: NIfTI"):
        survey(tmp_path)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


def test_two_domains_keep_their_split(tmp_path):
    for name in ("trainA/1.png", "trainA/2.png", "trainB/1.png", "testA/1.png", "testB/7.png"):
        picture(tmp_path / name)
    found = survey(tmp_path)
    assert found.layout == "domains"
    named = {
        split: [(*sorted(entry.keys() & {"source", "target"}), entry["subject"]) for entry in entries]
        for split, entries in found.splits.items()
    }
    assert named == {
        "training": [("source", "trainA/1"), ("source", "trainA/2"), ("target", "trainB/1")],
        "validation": [],
        "test": [("source", "testA/1"), ("target", "testB/7")],
    }


def test_folders_of_a_split_with_classes_give_the_split(tmp_path):
    for name in ("train/AD/1.png", "train/NC/1.png", "test/AD/1.png"):
        picture(tmp_path / name)
    found = survey(tmp_path)
    assert [entry["label"] for entry in found.splits["training"]] == ["AD", "NC"]
    assert [entry["subject"] for entry in found.splits["test"]] == ["test/AD/1"]


def test_a_given_split_that_separates_a_patient_is_not_used(tmp_path):
    for name in ("train/AD/OAS1_0001_MR1_100.png", "test/AD/OAS1_0001_MR1_101.png"):
        picture(tmp_path / name)
    found = survey(tmp_path)
    assert found.splits is None
    assert "puts 1 subjects into several splits (OAS1_0001)" in found.notes[-1]


def test_bids_sessions_and_runs_are_of_one_subject_and_derivatives_are_left_out(tmp_path, save):
    for name in ("ses-1/anat/sub-1_ses-1_run-1_T1w", "ses-1/anat/sub-1_ses-1_run-2_T1w", "ses-2/anat/sub-1_ses-2_T1w"):
        save(tmp_path / "sub-1" / f"{name}.nii.gz", VOLUME)
    save(tmp_path / "derivatives/sub-1/anat/sub-1_T1w.nii.gz", VOLUME)
    (tmp_path / "dataset_description.json").write_text("{}")
    found = survey(tmp_path)
    assert found.layout == "bids"
    assert [entry["subject"] for entry in found.entries] == ["sub-1"] * 3
    assert "1 images in derivatives" in found.notes[0]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_of_paths_gives_subjects_classes_splits_and_frames(tmp_path, save, separator):
    save(tmp_path / "scans" / "ä b.nii.gz", VOLUME)
    save(tmp_path / "scans" / "c.nii.gz", VOLUME)
    rows = ("Path,Subject,Class,Split", "scans/ä b.nii.gz,one,AD,train", "scans/c.nii.gz,two,n/a,val")
    (tmp_path / "list.csv").write_text("\n".join(rows).replace(",", separator), encoding="utf-8")
    found = survey(tmp_path / "list.csv")
    assert [(entry["subject"], entry["label"]) for entry in found.entries] == [("one", "AD"), ("two", None)]
    assert found.splits["validation"] == [found.entries[1]]


def test_a_table_of_one_column_needs_no_header_row(tmp_path, save):
    save(tmp_path / "p1_T1w.nii.gz", VOLUME)
    (tmp_path / "list.tsv").write_text("p1_T1w.nii.gz\np2_T1w.nii.gz\n")
    found = survey(tmp_path / "list.tsv")
    assert [entry["subject"] for entry in found.entries] == ["p1"]
    assert found.left_out == {tmp_path / "p2_T1w.nii.gz": "does not exist"}


def test_a_table_of_pairs(tmp_path, save):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.nii.gz", VOLUME)
    (tmp_path / "list.csv").write_text("source,target,subject\na.nii.gz,b.nii.gz,x\n")
    (entry,) = survey(tmp_path / "list.csv").entries
    assert [Path(entry[key]).name for key in ("source", "target")] == ["a.nii.gz", "b.nii.gz"]


def test_a_table_of_pictures_tells_patients_and_slices_as_a_folder_does(tmp_path):
    for name in ("218391_70.png", "218391_78.png", "218402_70.png"):
        picture(tmp_path / "scans" / name)
    rows = ["image", *(f"scans/{path.name}" for path in sorted((tmp_path / "scans").iterdir()))]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    listed, found = survey(tmp_path / "list.csv"), survey(tmp_path / "scans")
    assert listed.entries == found.entries
    assert [(entry["subject"], entry.get("position")) for entry in listed.entries] == [
        ("218391", 0),
        ("218391", 1),
        ("218402", None),
    ]


def test_a_table_of_pictures_that_name_no_patient_is_noted_and_its_column_of_subjects_is_kept(tmp_path):
    for name in ("mild_17.png", "mild_18.png"):
        picture(tmp_path / name)
    (tmp_path / "list.csv").write_text("image\nmild_17.png\nmild_18.png\n")
    found = survey(tmp_path / "list.csv")
    assert [entry["subject"] for entry in found.entries] == ["mild_17", "mild_18"]
    assert any("each count as a patient of their own" in note for note in found.notes)
    (tmp_path / "list.csv").write_text("image,subject\nmild_17.png,x\nmild_18.png,x\n")
    found = survey(tmp_path / "list.csv")
    assert [entry["subject"] for entry in found.entries] == ["x", "x"]
    assert not any("each count as a patient" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "lists no image"),
        ("a,b\nc,d\n", "no column of existing files"),
        ("image,split\nx.nii,holdout\n", "line 2 has the split holdout"),
        ("image,frame\nx.nii,-1\n", "line 2 has the frame -1"),
        ("image\nx\0.nii\n", "list"),
    ],
)
def test_a_wrong_table_of_paths_is_refused_with_the_reason(tmp_path, text, line):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(MedsynthError, match=line):
        survey(tmp_path / "list.csv")


def test_a_frame_is_taken_of_4d_images_only(tmp_path, save):
    save(tmp_path / "a.nii.gz", VOLUME)
    nib.save(nib.Nifti1Image(np.stack([VOLUME, VOLUME + 1], -1), np.eye(4)), tmp_path / "b.nii.gz")
    assert list(survey(tmp_path).left_out) == [tmp_path / "b.nii.gz"]
    assert [entry.get("frame") for entry in survey(tmp_path, frame=1).entries] == [None, 1]


def test_assumptions_about_headers_are_noted_once(tmp_path, save):
    for name, shift in (("a", 3.0), ("b", 4.5)):
        image = nib.load(save(tmp_path / f"{name}.nii.gz", VOLUME))
        image.set_qform(nib.affines.from_matvec(np.diag([2, 2, 2]), [shift, 0, 0]), 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    (note,) = survey(tmp_path).notes
    assert "a.nii.gz has an sform and a qform that disagree by up to 3 mm: the sform was taken (and 1 similar)" in note


def test_dicom_subjects_are_folders_and_a_patient_is_one_subject(tmp_path, slices, store):
    for folder, patient in (("p1/study/a", "1"), ("p1/study/b", "1"), ("p2/a", "2"), ("p3/a", "2")):
        store(tmp_path / folder, slices(VOLUME, PatientID=patient))
    found = survey(tmp_path)
    assert [entry["subject"] for entry in found.entries] == ["p1", "p1", "p2", "p2"]
    assert "p2, p3 have the same patient id" in found.notes[0]


def test_dicom_patients_in_one_folder_are_distinguished_without_their_ids(tmp_path, slices, store):
    for patient in ("11", "22"):
        store(tmp_path, slices(VOLUME, PatientID=patient), f"{patient}_{{}}.dcm")
    subjects = {entry["subject"] for entry in survey(tmp_path).entries}
    assert len(subjects) == 2
    assert all(subject.startswith("patient-") for subject in subjects)


def test_a_single_folder_is_not_a_class_and_is_named(tmp_path):
    for name in ("AD/p1_1.png", "AD/p2_1.png"):
        picture(tmp_path / name)
    found = survey(tmp_path)
    assert [entry["label"] for entry in found.entries] == [None, None]
    assert "all images are in one folder, AD: classes need two or more folders" in found.notes
