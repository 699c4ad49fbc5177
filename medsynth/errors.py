"""Mistakes of the user, reported in one line."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path


class MedsynthError(Exception):
    """A mistake of the user, reported in one line: what was found, what is needed, what to do.

    Shown without a traceback, so never raise it for a mistake in this code.
    """


def is_whole(value: object) -> bool:
    """Whether it is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def check_whole(name: str, value: object, least: int, give: str = "") -> None:
    """Refuse a setting that is not a whole number of at least `least`; `give` says what to give instead.

    Raises:
        MedsynthError: with the name of the setting.
    """
    if not is_whole(value) or value < least:
        raise MedsynthError(f"{name} is {value!r}: give {give or f'a whole number, {least} or more'}")


def check_bool(name: str, value: object, give: str = "true or false") -> None:
    """Refuse a setting that is neither true nor false; `give` says what each of them means.

    Raises:
        MedsynthError: with the name of the setting.
    """
    if not isinstance(value, bool):
        raise MedsynthError(f"{name} is {value!r}: give {give}")


def refuse_existing(path: Path, advice: str) -> None:
    """Refuse to write over an existing file or folder.

    Raises:
        MedsynthError: with `advice`, what to do instead.
    """
    if path.exists():
        raise MedsynthError(f"{path} is there already: {advice}")


def as_line(error: BaseException | None) -> str | None:
    """The `error: ...` line of the MedsynthError that `error` is or was raised from; None if there is none."""
    while error is not None and not isinstance(error, MedsynthError):
        error = error.__cause__
    return None if error is None else "error: " + " ".join(str(error).split())


def run_tool(main: Callable[[], None]) -> None:
    """Run a command line tool: a MedsynthError becomes one line on stderr and exit status 1."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = as_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(1)
