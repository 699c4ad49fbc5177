from __future__ import annotations

import math

import pytest

from medsynth.errors import MedsynthError, as_line, check_bool, check_whole, is_number, run_tool


def raise_behind(kind: type[Exception]) -> None:
    """An error of `kind` caused by a user's mistake."""
    try:
        raise MedsynthError("two\nlines")
    except MedsynthError as error:
        raise kind("not this") from error


def test_the_mistake_behind_another_error_is_reported():
    with pytest.raises(RuntimeError) as raised:
        raise_behind(RuntimeError)
    assert as_line(raised.value) == "error: two lines"


def test_a_bug_in_the_handling_of_a_mistake_is_a_bug():
    try:
        raise MedsynthError("handled")
    except MedsynthError:
        bug = ValueError("a bug")
        bug.__context__ = MedsynthError("handled")
    assert as_line(bug) is None


def test_a_tool_reports_a_mistake_in_one_line_with_status_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_tool(lambda: raise_behind(RuntimeError))
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_tool_keeps_the_traceback_of_a_bug():
    def divide() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(divide)


@pytest.mark.parametrize("value", [2, 10**9])
def test_whole_numbers_from_the_least_on_are_taken(value):
    check_whole("batch_size", value, 2)


@pytest.mark.parametrize("value", [1, -5, 2.0, "3", None, True, [4]])
def test_what_is_not_a_whole_number_from_the_least_on_is_refused(value):
    with pytest.raises(MedsynthError) as raised:
        check_whole("batch_size", value, 2)
    assert str(raised.value) == f"batch_size is {value!r}: give a whole number, 2 or more"


def test_what_to_give_instead_can_be_said():
    with pytest.raises(MedsynthError, match="^overlap is -1: give null, or 0 or more$"):
        check_whole("overlap", -1, 0, "null, or 0 or more")


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_neither_true_nor_false_is_refused(value):
    check_bool("dicom", True)
    check_bool("dicom", False)
    with pytest.raises(MedsynthError, match=f"^dicom is {value!r}: give true or false$"):
        check_bool("dicom", value)


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, True), (-1.5, True), (10**400, True), (True, False), ("1", False), (None, False), (math.nan, False)],
)
def test_what_is_a_number(value, number):
    assert is_number(value) == number
