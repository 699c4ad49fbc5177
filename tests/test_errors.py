from __future__ import annotations

import pytest

from medsynth.errors import MedsynthError, as_line, run_tool


def raise_behind(kind: type[Exception]) -> None:
    """An error of `kind` caused by a user's mistake."""
    try:
        raise MedsynthError("two\nlines")
    except MedsynthError as error:
        raise kind("not this") from error


def test_the_mistake_behind_another_error_is_what_is_told():
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


def test_a_tool_tells_a_mistake_in_one_line_with_status_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_tool(lambda: raise_behind(RuntimeError))
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_tool_keeps_the_traceback_of_a_bug():
    def divide() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(divide)
