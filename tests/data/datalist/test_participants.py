from __future__ import annotations

import pytest

from medsynth.data.datalist.participants import read_covariates, read_participants
from medsynth.errors import MedsynthError


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
def test_a_missing_column_is_named(tmp_path, text, line):
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(MedsynthError, match=line):
        read_participants(tmp_path / "p.tsv", "groups")


def test_covariates_are_numbers_and_unknown_ones_are_left_out(tmp_path):
    (tmp_path / "p.tsv").write_text("participant_id\tage\tweight\na\t35.8\t70\nb\tn/a\t1e2\nc\t NaN \t\nd\t-4\tN/A\n")
    found = read_covariates(tmp_path / "p.tsv", ["weight", "age", "age"])
    assert found.values == {"a": {"age": 35.8, "weight": 70.0}, "b": {"weight": 100.0}, "c": {}, "d": {"age": -4.0}}
    assert (found.names, found.codes) == (["weight", "age"], {})


def test_two_words_become_0_and_1_in_alphabetical_order(tmp_path):
    (tmp_path / "p.csv").write_text("participant_id,sex\na,M\nb,F\nc,n/a\nd, M\n")
    found = read_covariates(tmp_path / "p.csv", ["sex"])
    assert found.values == {"a": {"sex": 1.0}, "b": {"sex": 0.0}, "c": {}, "d": {"sex": 1.0}}
    assert found.codes == {"sex": ("F", "M")}


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (("AD", "NC", "MCI"), r"holds 3 texts \(AD, MCI, NC\), .*: for classes, use --label"),
        (("F", "F", "n/a"), "holds the text F alone, .*: leave it out"),
        (("35.8", "35,9", "n/a"), r"numbers and text \(35,9\): write numbers with a point, and n/a"),
        (("35", "inf", "36"), r"numbers and text \(inf\)"),
        (("n/a", "", "nan"), "holds no value: leave it out"),
    ],
)
def test_a_column_that_is_no_covariate_is_refused_with_what_it_holds(tmp_path, cells, line):
    rows = [f"{subject}\t{cell}" for subject, cell in zip("abc", cells, strict=True)]
    (tmp_path / "p.tsv").write_text("\n".join(["participant_id\tscore", *rows]))
    with pytest.raises(MedsynthError, match=f"the column score of --covariates .*{line}"):
        read_covariates(tmp_path / "p.tsv", ["score"])


def test_a_missing_column_of_covariates_is_named_with_those_that_exist(tmp_path):
    (tmp_path / "p.tsv").write_text("participant_id\tage\tsex\na\t3\tF\n")
    with pytest.raises(MedsynthError, match="no column agee, only participant_id, age, sex: did you mean age"):
        read_covariates(tmp_path / "p.tsv", ["sex", "agee"])
