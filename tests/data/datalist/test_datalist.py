from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter

import pytest

from medsynth.data.datalist import datalist
from medsynth.data.phantom import default, phantom
from medsynth.errors import MedsynthError


@pytest.fixture
def written(tmp_path):
    """Write a datalist of empty images, one a subject."""

    def write(**splits):
        for subjects in splits.values():
            for subject in subjects:
                (tmp_path / f"{subject}.nii.gz").touch()
        lists = {name: [{"image": f"{s}.nii.gz", "subject": s} for s in subjects] for name, subjects in splits.items()}
        (tmp_path / "list.json").write_text(json.dumps({"name": "mine", **lists}))
        return tmp_path / "list.json"

    return write


def test_paths_are_absolute_and_relative_to_the_datalist(tmp_path, written):
    read = datalist.read(written(training=["a"], test=["b"]))
    assert read.splits["training"] == [{"image": str(tmp_path / "a.nii.gz"), "subject": "a", "label": None}]
    assert [len(read.splits[split]) for split in ("training", "validation", "test")] == [1, 0, 1]
    assert (read.name, [entry["subject"] for entry in read.entries]) == ("mine", ["a", "b"])


def test_the_digest_is_that_of_the_file(written):
    path = written(training=["a"])
    assert datalist.read(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_subject_in_two_splits_is_named_with_both(written):
    path = written(training=["a", "b"], test=["c"])
    path.write_text(path.read_text().replace('"subject": "c"', '"subject": "b"'))
    with pytest.raises(MedsynthError, match="subject b is in training and in test"):
        datalist.read(path)


def test_missing_images_are_counted_and_the_first_is_named(tmp_path, written):
    path = written(training=["a", "b", "c"])
    (tmp_path / "b.nii.gz").unlink()
    with pytest.raises(MedsynthError, match=r"1 of 3 images do not exist, the first is .*b\.nii\.gz"):
        datalist.read(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "is not JSON"),
        ("[]", 'no list "training"'),
        ('{"training": []}', '"training" is empty'),
        ('{"training": [{"image": "x"}]}', 'training entry 1 has no "subject"'),
        ('{"training": ["x"]}', 'training entry 1 has no "image"'),
        ('{"training": [], "test": 3}', '"test" is not a list'),
    ],
)
def test_what_is_not_a_datalist_is_refused_in_one_line(tmp_path, content, line):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(MedsynthError, match=line):
        datalist.read(tmp_path / "list.json")


def test_no_such_datalist(tmp_path):
    with pytest.raises(MedsynthError, match=r"nothing\.json: No such file.*make_datalist"):
        datalist.read(tmp_path / "nothing.json")


def test_an_image_listed_twice_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    entries = [{"image": "a.png", "subject": "1"}, {"image": "../" + tmp_path.name + "/a.png", "subject": "2"}]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    with pytest.raises(MedsynthError, match=r"a\.png is listed 2 times"):
        datalist.read(tmp_path / "list.json")


def test_a_scan_in_two_splits_is_reported_by_its_patient(written):
    with pytest.raises(MedsynthError, match="subject a is in training and in test"):
        datalist.read(written(training=["a"], test=["a"]))


def test_labels_are_text_and_unknown_ones_none(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    labels = {"a": 1, "b": "n/a", "c": "AD"}
    entries = [{"image": name, "subject": name, "label": label} for name, label in labels.items()]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    read = datalist.read(tmp_path / "list.json")
    assert [entry["label"] for entry in read.entries] == ["1", None, "AD"]
    assert read.classes == ["1", "AD"]


def test_what_is_written_is_read_back(tmp_path, written):
    first = datalist.read(written(training=["a", "b"], validation=["c"]))
    (tmp_path / "elsewhere").mkdir()
    datalist.write(tmp_path / "elsewhere" / "copy.json", first)
    assert json.loads((tmp_path / "elsewhere" / "copy.json").read_text())["training"][0]["image"] == "../a.nii.gz"
    again = datalist.read(tmp_path / "elsewhere" / "copy.json")
    assert (again.splits, again.name) == (first.splits, first.name)


def test_a_split_separates_no_patient_and_balances_classes():
    entries = [
        {"image": f"{subject}_{scan}", "subject": subject, "label": "AD" if subject < "s2" else "NC"}
        for subject in (f"s{i:02d}" for i in range(40))
        for scan in range(3)
    ]
    splits = datalist.split_by_patient(entries, (0.7, 0.15, 0.15), seed=3)
    subjects = {name: {entry["subject"] for entry in split} for name, split in splits.items()}
    assert {name: len(found) for name, found in subjects.items()} == {"training": 28, "validation": 6, "test": 6}
    assert len(set.union(*subjects.values())) == 40
    assert Counter(entry["label"] for entry in splits["test"]) == {"AD": 9, "NC": 9}
    assert all(len(split) == 3 * len(subjects[name]) for name, split in splits.items())


def test_a_split_depends_on_the_seed_only():
    entries = [{"image": str(i), "subject": str(i), "label": None} for i in range(20)]
    first = datalist.split_by_patient(entries, (0.5, 0.25, 0.25), seed=1)
    assert first == datalist.split_by_patient(entries[::-1], (0.5, 0.25, 0.25), seed=1)
    assert first != datalist.split_by_patient(entries, (0.5, 0.25, 0.25), seed=2)


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_invalid_shares_are_refused(fractions):
    with pytest.raises(MedsynthError, match="three shares that sum to 1"):
        datalist.split_by_patient([], fractions)


def test_without_a_datalist_the_phantom_is_used_with_one_warning(monkeypatch, caplog, written):
    path = written(training=["a"])
    asked = []
    monkeypatch.setattr(phantom, "write_dataset", lambda folder: asked.append(str(folder)) or path)
    with caplog.at_level(logging.WARNING):
        assert default.load(None).name == "mine"
    assert asked == ["data/phantom"]
    assert [("MADE UP" in record.message) for record in caplog.records] == [True]


def test_some_classes_are_selected_and_unknown_ones_refused(tmp_path, written):
    path = written(training=["a", "b", "c"], test=["d", "e"])
    content = json.loads(path.read_text())
    for split in ("training", "test"):
        for entry in content[split]:
            entry["label"] = {"a": "old", "b": "young", "d": "old"}.get(entry["subject"])
    path.write_text(json.dumps(content))
    assert default.load(path, labels="old").classes == ["old"]
    assert [entry["subject"] for entry in default.load(path, labels=["old"]).entries] == ["a", "d"]
    assert [entry["subject"] for entry in default.load(path, labels=["young", "old"]).entries] == ["a", "b", "d"]
    assert len(default.load(path).entries) == 5
    with pytest.raises(
        MedsynthError, match="labels names middle, and the training images of mine have the classes old"
    ):
        default.load(path, labels=["old", "middle"])


def patients(count, label=None, keys=("image",), images=2):
    """Entries of so many patients of a class."""
    return [
        {"subject": f"{label}{i}", "label": label} | {key: f"{label}{i}_{n}_{key}" for key in keys}
        for i in range(count)
        for n in range(images)
    ]


def test_a_tenth_of_the_patients_of_each_class_is_held_out_with_all_their_images():
    remaining, held = datalist.hold_out(patients(20, "AD") + patients(40, "NC"))
    assert Counter(entry["label"] for entry in held) == {"AD": 2 * 2, "NC": 2 * 4}
    assert len(remaining) == 2 * 54
    assert not {entry["subject"] for entry in remaining} & {entry["subject"] for entry in held}


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (3, 1), (9, 1), (30, 3)])
def test_at_least_one_patient_is_held_out_unless_there_is_one_alone(count, expected):
    remaining, held = datalist.hold_out(patients(count))
    assert (len(remaining) // 2, len(held) // 2) == (count - expected, expected)


def test_patients_of_both_domains_are_held_out():
    remaining, held = datalist.hold_out(patients(20, "A", ("source",)) + patients(3, "B", ("target",)))
    assert Counter(key for entry in held for key in datalist.files_of(entry)) == {"source": 2 * 2, "target": 2}
    assert len(remaining) == 2 * 20


def test_mask_and_segmentation_are_relative_to_the_datalist(tmp_path, written):
    path = written(training=["a"])
    content = json.loads(path.read_text())
    content["training"][0] |= {"mask": "masks/a.nii.gz", "segmentation": "../a.png"}
    path.write_text(json.dumps(content))
    read = datalist.read(path)
    (entry,) = read.entries
    assert (entry["mask"], entry["segmentation"]) == (str(tmp_path / "masks/a.nii.gz"), str(tmp_path.parent / "a.png"))
    (tmp_path / "new").mkdir()
    datalist.write(tmp_path / "new" / "list.json", read)
    (again,) = json.loads((tmp_path / "new" / "list.json").read_text())["training"]
    assert (again["mask"], again["segmentation"]) == ("../masks/a.nii.gz", "../../a.png")


@pytest.mark.parametrize("position", [1.01, -0.1, "top", True])
def test_an_invalid_position_is_refused(written, position):
    path = written(training=["a"])
    content = json.loads(path.read_text())
    content["training"][0]["position"] = position
    path.write_text(json.dumps(content))
    with pytest.raises(MedsynthError, match=r'training entry 1 has the "position" .*: write a number from 0 to 1'):
        datalist.read(path)


@pytest.mark.parametrize(
    "covariates", ['{"age": "old"}', '{"age": NaN}', '{"age": null}', '{"age": true}', "[35]", "35"]
)
def test_covariates_that_are_not_numbers_by_name_are_refused_with_their_entry(written, covariates):
    path = written(training=["a", "b"])
    path.write_text(path.read_text().replace('"subject": "b"', f'"subject": "b", "covariates": {covariates}'))
    with pytest.raises(MedsynthError, match='training entry 2 has the "covariates" .*: write a number for each name'):
        datalist.read(path)


def test_covariates_are_read_and_written_as_they_are_and_training_images_name_them(tmp_path, written):
    path = written(training=["a", "b"], test=["c"])
    content = json.loads(path.read_text())
    content["training"][1]["covariates"] = {"sex": 0, "age": 35.8}
    content["test"][0]["covariates"] = {"weight": 70}
    path.write_text(json.dumps(content))
    read = datalist.read(path)
    assert read.covariates == ["age", "sex"]
    datalist.write(tmp_path / "again.json", read)
    assert json.loads((tmp_path / "again.json").read_text())["training"][1]["covariates"] == {"sex": 0, "age": 35.8}
