"""Images named by a table: one row each, or a row for each pair."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medsynth.data.datalist.datalist import BESIDE, IMAGE, PAIR, SPLITS, UNKNOWN_LABELS
from medsynth.errors import MedsynthError

SUBJECT_COLUMNS = ("subject", "subject_id", "participant_id", "patient", "patient_id", "id")
LABEL_COLUMNS = ("label", "class", "group", "diagnosis", "dx")
SPLIT_COLUMNS = ("split", "set", "partition", "fold")
SPLIT_NAMES = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def is_listing(path: str | Path) -> bool:
    """Whether the name ends like a table."""
    return str(path).lower().endswith((".csv", ".tsv"))


def read_rows(path: Path) -> list[list[str]]:
    """Cells of a table, comma, semicolon or tab separated; empty rows left out.

    Raises:
        MedsynthError: it does not exist, or is not text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            start = file.readline()
            file.seek(0)
            separator = max(",;\t", key=start.count) if path.suffix.lower() == ".csv" else "\t"
            return [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=separator) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedsynthError(f"{path} cannot be read as a table: {error}") from error


def read_listing(path: str | Path, label: str | None = None) -> list[dict[str, Any]]:
    """Entries of a datalist from a table of paths, which are relative to it.

    The column of paths is called image, path or file, or is the first that holds files; a table of one column needs no
    header row. Two columns source and target make pairs. Columns of subjects, labels, splits, frames, masks and
    segmentations are optional.

    Args:
        path: of the table.
        label: the column of the classes; None: the first of `LABEL_COLUMNS` that is there.

    Returns: entries {"image" or "source" and "target", "label", and "subject", "split", "frame", "mask", "segmentation"
        where given}.
    """
    path = Path(path)
    rows = read_rows(path)
    if rows and _file(path, rows[0][0]):
        rows.insert(0, ["image", *(f"column {number}" for number in range(2, len(rows[0]) + 1))])
    if len(rows) < 2:
        raise MedsynthError(f"{path} lists no image: a header row and a row for each image are needed")
    names = [name.lower() for name in rows[0]]
    files = _file_columns(path, rows[1:], names) | {key: names.index(key) for key in BESIDE if key in names}
    if label is not None and label.lower() not in names:
        raise MedsynthError(f"{path} has no column {label}, only {', '.join(rows[0])}")
    columns = {
        "subject": _first(names, SUBJECT_COLUMNS),
        "label": names.index(label.lower()) if label is not None else _first(names, LABEL_COLUMNS),
        "split": _first(names, SPLIT_COLUMNS),
        "frame": _first(names, ("frame",)),
    }
    return [_entry(path, number, row, files, columns) for number, row in enumerate(rows[1:], start=2)]


def _entry(
    path: Path, number: int, row: list[str], files: dict[str, int], columns: dict[str, int | None]
) -> dict[str, Any]:
    def cell(column: int | None) -> str:
        return row[column] if column is not None and column < len(row) else ""

    entry: dict[str, Any] = {}
    for key, column in files.items():
        if cell(column):
            entry[key] = str(_file(path, cell(column)) or Path(path.parent.absolute(), cell(column)))
    if not entry.keys() - set(BESIDE):
        raise MedsynthError(f"{path} line {number} names no file: fill it in, or remove the line")
    label = cell(columns["label"])
    entry["label"] = None if label in UNKNOWN_LABELS else label
    if subject := cell(columns["subject"]):
        entry["subject"] = subject
    if split := cell(columns["split"]):
        if split.lower() not in SPLIT_NAMES:
            raise MedsynthError(f"{path} line {number} has the split {split}: write one of {', '.join(SPLITS)}")
        entry["split"] = SPLIT_NAMES[split.lower()]
    if frame := cell(columns["frame"]):
        if not frame.isdecimal():
            raise MedsynthError(f"{path} line {number} has the frame {frame}: write a whole number, 0 or more")
        entry["frame"] = int(frame)
    return entry


def _file_columns(path: Path, rows: list[list[str]], names: list[str]) -> dict[str, int]:
    """Which columns hold the files of an entry."""
    if pair := {key: names.index(key) for key in PAIR if key in names}:
        return pair
    named = _first(names, (*IMAGE, "path", "file", "filename", "filepath"))
    holding = (column for column in range(len(names)) if any(_file(path, row[column]) for row in rows if row[column:]))
    if (column := next(holding, None) if named is None else named) is None:
        raise MedsynthError(f"{path} has no column of existing files: name one image, or source and target")
    return {IMAGE[0]: column}


def _file(table: Path, name: str) -> Path | None:
    """The file of that name, relative to the table or to the working directory."""
    if not name or "\0" in name or len(name) > 4096:
        return None
    candidates = (table.parent.absolute() / name, Path(name).absolute())
    return next((file for file in candidates if file.is_file()), None)


def _first(names: list[str], wanted: Iterable[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)
