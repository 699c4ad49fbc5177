from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist import datalist

VOLUME = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def scans(tmp_path):
    """Twenty subjects, half of them AD, and their table."""
    (tmp_path / "scans").mkdir()
    rows = ["participant_id\tgroup"]
    for i in range(20):
        nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "scans" / f"P{i:02d}-X_T1w.nii.gz")
        rows.append(f"P{i:02d}-X\t{('AD', 'NC')[i % 2]}")
    (tmp_path / "participants.tsv").write_text("\n".join(rows))
    return tmp_path / "scans"


def test_the_datalist_is_read_back_with_its_classes_and_split(make, scans, tmp_path, capsys):
    table = ("--participants", tmp_path / "participants.tsv", "--label", "group")
    make(scans, tmp_path / "new" / "out.json", *table, "--split", 0.6, 0.2, 0.2)
    read = datalist.read(tmp_path / "new" / "out.json")
    assert {split: len(entries) for split, entries in read.splits.items()} == {
        "training": 12,
        "validation": 4,
        "test": 4,
    }
    assert (read.name, read.classes, read.modalities) == ("out", ["AD", "NC"], {"0": "T1w"})
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["subjects", "20"] in lines
    assert ["classes", "AD (10), NC (10)"] in lines
    assert ["sizes", "4 x 3 x 5 (20)"] in lines
    assert sorted(dict(lines)["test"].split(": ")[1].split(", ")) == ["AD (2)", "NC (2)"]


def test_existing_files_are_replaced_only_on_request(make, scans, tmp_path, capsys):
    make(scans, tmp_path / "out.json")
    before = (tmp_path / "out.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        make(scans, tmp_path / "out.json", "--seed", 1)
    assert stop.value.code == 1
    assert "error: " in capsys.readouterr().err
    assert (tmp_path / "out.json").read_bytes() == before
    make(scans, tmp_path / "out.json", "--seed", 1, "--overwrite")
    assert (tmp_path / "out.json").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--pattern", "*.png"), "holds no image named *.png"),
        (("--label", "group"), "give the table with --participants"),
        (("--covariates", "age"), "--covariates age names columns of a table: give the table with --participants"),
        (("--split", "0.7", "0.7", "0.1"), "three shares that sum to 1"),
        (("--split", "0", "0.5", "0.5"), "no subject to train on"),
        (("--participants", "missing.tsv"), "cannot be read as a table"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(make, scans, tmp_path, capsys, options, line):
    with pytest.raises(SystemExit) as stop:
        make(scans, tmp_path / "out.json", *options)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "out.json").exists()


@pytest.fixture
def slices(tmp_path):
    """ADNI's folders: 20 patients of two classes to train on, 4 to test, two slices each."""
    for number in range(24):
        folder = tmp_path / "AD_NC" / ("test" if number > 19 else "train") / ("AD", "NC")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for slice_number in (70, 80):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"{218000 + number}_{slice_number}.jpeg")
    return tmp_path / "AD_NC"


def test_validation_is_taken_from_training_and_the_given_test_stays(make, slices, tmp_path, capsys):
    make(slices, tmp_path / "out.json")
    splits = datalist.read(tmp_path / "out.json").splits
    counted = {split: sorted({(e["label"], e["subject"]) for e in entries}) for split, entries in splits.items()}
    assert [len(counted[split]) for split in ("training", "validation", "test")] == [18, 2, 4]
    assert [label for label, _ in counted["validation"]] == ["AD", "NC"]
    assert {subject for _, subject in counted["test"]} == {str(218000 + number) for number in range(20, 24)}
    assert "the given split has no validation: 2 of the training patients were moved to it" in capsys.readouterr().out


def test_the_tool_says_how_it_read_a_name(make, slices, tmp_path, capsys):
    make(slices, tmp_path / "out.json", "--subject_pattern", r"/2180(?P<subject>\d+)_(?P<slice>\d+)$")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["names"] == "test/AD/218020_70.jpeg: subject 20, slice 70, class AD, split test"
    assert {entry["position"] for entry in datalist.read(tmp_path / "out.json").entries} == {0, 1}


@pytest.fixture
def patients(scans, tmp_path):
    """The table of the twenty subjects: of the first the age is unknown, the second has no row."""
    rows = [f"P{i:02d}-X\t{20 + i if i else 'n/a'}\t{'FM'[i % 2]}" for i in range(20) if i != 1]
    (tmp_path / "patients.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]))
    return tmp_path / "patients.tsv"


def test_covariates_of_the_table_are_in_the_datalist_and_described(make, scans, patients, tmp_path, capsys):
    make(scans, tmp_path / "out.json", "--participants", patients, "--covariates", "age", "sex")
    found = {entry["subject"]: entry.get("covariates") for entry in datalist.read(tmp_path / "out.json").entries}
    assert (found["P00-X"], found["P01-X"], found["P05-X"]) == ({"sex": 0.0}, None, {"age": 25.0, "sex": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("--output_dir runs/out --covariates \"['age', 'sex']\"")
    assert "covariate age   mean 30.5, range 22 to 39, unknown for 2 of 20 subjects" in lines
    assert "covariate sex   F is 0, M is 1, mean 0.4737, range 0 to 1, unknown for 1 of 20 subjects" in lines


def test_pairs_have_the_covariates_of_their_subject(make, scans, patients, tmp_path):
    for path in scans.iterdir():
        (scans / path.name.replace("T1w", "T2w")).write_bytes(path.read_bytes())
    patterns = ("--source", "*_T1w.nii.gz", "--target", "*_T2w.nii.gz")
    make(scans, tmp_path / "out.json", *patterns, "--participants", patients, "--covariates", "age")
    entries = datalist.read(tmp_path / "out.json", datalist.PAIR).entries
    assert {e["subject"]: e.get("covariates") for e in entries if {"source", "target"} <= e.keys()} == {
        f"P{i:02d}-X": {"age": 20.0 + i} if i > 1 else None for i in range(20)
    }


def test_a_column_that_is_no_covariate_is_refused_before_anything_is_written(make, scans, patients, tmp_path, capsys):
    with pytest.raises(SystemExit):
        make(scans, tmp_path / "out.json", "--participants", patients, "--covariates", "agee")
    assert "no column agee, only participant_id, age, sex: did you mean age?" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
