"""What a table says of each subject: its class and its covariates."""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsynth.data.datalist.datalist import UNKNOWN_LABELS
from medsynth.errors import MedsynthError

SUBJECT = "participant_id"  # BIDS's column of ids
MOST_NAMED = 5  # values of a column in a message


@dataclass(frozen=True)
class Covariates:
    """Numbers that a table gives for its subjects.

    Args:
        names: of the columns.
        values: of each subject, those that are known: {"sub-01": {"age": 35.8, "sex": 0.0}}.
        codes: of columns of text, the word of each number: {"sex": ("F", "M")} for 0 and 1.
    """

    names: list[str]
    values: dict[str, dict[str, float]]
    codes: dict[str, tuple[str, str]]


def read_participants(path: str | os.PathLike, label: str | None = None) -> dict[str, str | None]:
    """The class of each subject, None if unknown, from a BIDS participants table (tab or comma separated)."""
    rows = _read_rows(Path(path), [label] if label else [])
    return {subject: _known(row[label]) if label else None for subject, row in rows.items()}


def read_covariates(path: str | os.PathLike, names: Sequence[str]) -> Covariates:
    """The values of some columns for each subject, from such a table; n/a, nan and empty cells are left out.

    A column of text with two different values is coded 0 and 1 in alphabetical order.

    Raises:
        MedsynthError: a column does not exist, is empty, or holds other text.
    """
    names = list(dict.fromkeys(names))
    rows = _read_rows(Path(path), names)
    values: dict[str, dict[str, float]] = {subject: {} for subject in rows}
    codes = {}
    for name in names:
        cells = {subject: cell for subject, row in rows.items() if (cell := _known(row[name])) is not None}
        words = _words(path, name, sorted(set(cells.values())))
        if words is not None:
            codes[name] = words
        for subject, cell in cells.items():
            values[subject][name] = float(cell) if words is None else float(words.index(cell))
    return Covariates(names, values, codes)


def _read_rows(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """The row of each subject, which has these columns and others."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedsynthError(f"{path} cannot be read as a table of participants: {error}") from error
    found = list(map(str, rows[0])) if rows else []
    for column in (SUBJECT, *columns):
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise MedsynthError(f"{path} has no column {column}, only {', '.join(found) or 'nothing'}{hint}")
    return {row[SUBJECT].strip(): row for row in rows if row[SUBJECT]}


def _words(path: str | os.PathLike, name: str, found: Sequence[str]) -> tuple[str, str] | None:
    """The two words of a column that holds these different values; None where they are numbers.

    Raises:
        MedsynthError: neither.
    """
    text = [cell for cell in found if not _is_number(cell)]
    if found and not text:
        return None
    if len(text) == len(found) == 2:
        return text[0], text[1]
    shown = ", ".join(text[:MOST_NAMED]) + (", ..." if len(text) > MOST_NAMED else "")
    if not found:
        what = "no value: leave it out"
    elif len(text) < len(found):
        what = f"numbers and text ({shown}): write numbers with a point, and n/a where one is unknown"
    elif len(text) == 1:
        what = f"the text {shown} alone, and a covariate is a number or one of two texts: leave it out"
    else:
        what = f"{len(text)} texts ({shown}), and a covariate is a number or one of two texts: for classes, use --label"
    raise MedsynthError(f"{path}: the column {name} of --covariates holds {what}")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _known(cell: str | None) -> str | None:
    """The cell without blanks around it; None where it says that nothing is known."""
    cell = (cell or "").strip()
    return None if cell.lower() in UNKNOWN_LABELS else cell
