from __future__ import annotations

import pytest

from medsynth.data.datalist.datalist import Datalist
from medsynth.errors import MedsynthError
from medsynth.evaluation.report.compared_sets import Preparation
from medsynth.evaluation.report.held_out import Patients, held_out_entries


def study(**subjects: str) -> Datalist:
    """Two images a subject, of a letter each."""
    splits = {
        split: [{"image": f"{name}{i}.png", "subject": name} for name in subjects.get(split, "") for i in range(2)]
        for split in ("training", "validation", "test")
    }
    return Datalist("study", splits)


@pytest.mark.parametrize(("split", "expected"), [("validation", "de"), ("test", "fgh"), ("both", "defgh")])
def test_figures_are_read_on_the_split_that_is_asked_for(split, expected):
    found = held_out_entries(study(training="abc", validation="de", test="fgh"), split)
    assert [entry["subject"] for entry in found] == [name for name in expected for _ in range(2)]


def test_without_test_patients_those_of_validation_are_read_and_the_log_says_so(caplog):
    found = held_out_entries(study(training="abc", validation="de"))
    assert {entry["split"] for entry in found} == {"validation"}
    assert "study has no test patients: figures are read on its validation patients" in caplog.text


def test_the_test_is_not_read_where_validation_was_asked_for():
    with pytest.raises(MedsynthError, match="study holds no validation subjects"):
        held_out_entries(study(training="abc", test="fgh"), "validation")
    with pytest.raises(MedsynthError, match="study holds no validation or test subjects"):
        held_out_entries(study(training="abc"))


@pytest.mark.parametrize("split", ["tset", "training", None, ["test"]])
def test_another_split_is_one_line(split):
    with pytest.raises(MedsynthError, match="give validation, test, both"):
        Preparation(split=split)


@pytest.mark.parametrize(
    ("counts", "split", "words"),
    [
        ({"test": 8}, "test", "8 test patients, who taught and chose nothing."),
        ({"test": 1}, "test", "1 test patient, who taught and chose nothing."),
        (
            {"validation": 7},
            "validation",
            "7 validation patients: validation chose the model, so the figures flatter it.",
        ),
        (
            {"validation": 7, "test": 8},
            "both",
            "7 validation and 8 test patients: validation chose the model, so the figures flatter it.",
        ),
        ({None: 3}, None, "3 patients; whether they taught or chose the model is not known."),
    ],
)
def test_the_page_says_on_whom_its_figures_are_read(counts, split, words):
    patients = Patients(counts)
    assert patients.words == f"Figures are read on {words}"
    assert patients.facts == {"split": split, "patients": sum(counts.values())}


def test_a_patient_of_many_images_counts_once_and_one_left_out_does_not():
    entries = held_out_entries(study(training="abc", validation="de", test="fgh"), "both")
    assert Patients.of(entries, ["d", "d", "f", "g", "g"]).counts == {"validation": 1, "test": 2}
