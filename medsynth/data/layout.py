"""Tell from names, folders and a table whose images they are and of which class."""

from __future__ import annotations

import csv
import difflib
import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsynth.data.datalist import UNKNOWN_LABELS, files_of
from medsynth.data.sources import Header, find_images, is_picture, read_header
from medsynth.errors import MedsynthError

STUDY_IDS = re.compile(
    r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+|IXI\d{3}-[A-Za-z]+-\d{4}|OAS1_\d{4}|OAS2_\d{4}|OAS3\d{4}|\d{3}_S_\d{4,5})(?![A-Za-z0-9])"
)
"""BIDS, IXI, OASIS-1 to 3 and ADNI."""

CONTRASTS = "T1w|T2w|T1|T2|T1c|T1ce|T1gd|MPRAGE|PDw|PD|FLAIR|T2starw|SWI|MRA|DWI|CT|MR|MRI|PET"
CONTRAST = re.compile(rf"[_-]({CONTRASTS})$", re.IGNORECASE)
NO_SUBJECT = re.compile(
    rf"({CONTRASTS}|anat|func|images?|scans?|dicom|nifti|raw|(ses|session|visit|run)[-_ ]?\w*)$", re.IGNORECASE
)
"""Names of folders that lie between a subject's folder and its images."""

MOST_SCANS = 10  # of one subject in its folder: a folder of more holds scans of many
MOST_CLASSES = 10  # more folders of pictures than that are one for each subject


@dataclass
class Survey:
    """What is in a folder.

    Args:
        entries: of a datalist: {"image", "subject", "label"}.
        headers: one an entry.
        left_out: for each image that cannot be used, what is wrong with it.
        notes: what a user should look at.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def contrasts(self) -> list[str]:
        """Endings of the file names that tell contrasts, such as T1w; the most frequent first."""
        found = (CONTRAST.search(stem(file)) for entry in self.entries for file in files_of(entry).values())
        return [name for name, _ in Counter(match[1] for match in found if match).most_common()]


def survey(folder: str | os.PathLike, table: dict[str, str | None] | None = None, pattern: str = "*") -> Survey:
    """Find the images of a folder, their subjects and their classes; reads headers only.

    Args:
        folder: looked through with all folders in it.
        table: class of each subject, from `read_participants`; without one, the folders of pictures are their classes.
        pattern: of the names of the files to take.
    """
    folder = Path(folder)
    images = [path for path in find_images(folder) if fnmatch.fnmatch(path.name, pattern)]
    if not images:
        raise MedsynthError(
            f"{folder} holds no image named {pattern}: .nii, .nii.gz, .png, .jpg or .tif files are needed"
        )
    result = Survey()
    arrangement = _arrangement(images)
    classes = arrangement == "classes" and table is None
    for path in images:
        try:
            header = read_header(path)
        except MedsynthError as error:
            result.left_out[path] = str(error)
            continue
        subject = subject_of(path.relative_to(folder), arrangement, table or ())
        label = path.parent.name if classes else (table or {}).get(subject)
        result.entries.append({"image": str(path.absolute()), "subject": subject, "label": label})
        result.headers.append(header)
    if not result.entries:
        path, reason = next(iter(result.left_out.items()))
        raise MedsynthError(f"none of the {len(images)} images in {folder} can be used: {path.name} {reason}")
    result.notes = _notes(result, table)
    return result


def read_participants(path: str | os.PathLike, label: str | None = None) -> dict[str, str | None]:
    """The class of each subject, None if unknown, from a BIDS participants table (tab or comma separated)."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedsynthError(f"{path} cannot be read as a table of participants: {error}") from error
    columns = list(rows[0]) if rows else []
    for column in filter(None, ("participant_id", label)):
        if column not in columns:
            near = difflib.get_close_matches(column, map(str, columns), n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise MedsynthError(
                f"{path} has no column {column}, only {', '.join(map(str, columns)) or 'nothing'}{hint}"
            )
    return {
        row["participant_id"].strip(): _label(row[label] if label else None) for row in rows if row["participant_id"]
    }


def subject_of(path: Path, arrangement: str = "flat", known: Iterable[str] = ()) -> str:
    """Whose image a file is.

    Args:
        path: from the folder of all images on.
        arrangement: of that folder: `flat`, one folder for each of the `subjects`, or of the `classes`.
        known: ids of participants; one that is in the path is preferred to a guess.
    """
    own = _guess_subject(path, arrangement)
    if own in known:
        return own
    text = path.with_name(stem(path)).as_posix()
    named = [
        name for name in known if name in text and re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text)
    ]
    return max(named, key=len, default=own)


def _guess_subject(path: Path, arrangement: str) -> str:
    """The id of a study whose scheme is known, else the subject's folder, else the file's name without its contrast."""
    folders = path.parent.parts
    for part in (stem(path), *reversed(folders)):
        if match := STUDY_IDS.search(part):
            return match[1]
    own = CONTRAST.sub("", stem(path))
    if arrangement == "subjects" and (names := [name for name in folders if not NO_SUBJECT.match(name)]):
        return "/".join(names)
    return f"{path.parent.name}/{own}" if arrangement == "classes" else own


def _arrangement(images: Sequence[Path]) -> str:
    """What the folders of these images stand for."""
    folders = {path.parent for path in images}
    if len(folders) == 1:
        return "flat"
    if all(map(is_picture, images)):
        return "classes" if len(folders) <= MOST_CLASSES else "subjects"
    return "subjects" if len(images) <= MOST_SCANS * len(folders) else "flat"


def stem(path: str | os.PathLike) -> str:
    """A file's name without its ending, `.nii.gz` and all."""
    return re.sub(r"(\.nii)?\.[^.]+$", "", Path(path).name)


def _label(value: str | None) -> str | None:
    return None if value is None or value.strip() in UNKNOWN_LABELS else value.strip()


def _notes(found: Survey, table: dict[str, str | None] | None) -> list[str]:
    notes = []
    subjects = {entry["subject"] for entry in found.entries}
    if table is not None and (strangers := sorted(subjects - set(table))):
        if len(strangers) == len(subjects):
            raise MedsynthError(
                f"no image belongs to a participant of the table: it has ids such as {next(iter(table), 'none')}, "
                f"and the images are of {strangers[0]}: rename one or the other"
            )
        notes.append(
            f"{len(strangers)} subjects are not in the table of participants, and have no class: {_some(strangers)}"
        )
    if len(found.contrasts) > 1:
        notes.append(
            f"several contrasts in one list ({', '.join(found.contrasts)}): choose with --pattern '*_T1w.nii.gz'"
        )
    if len({is_picture(entry["image"]) for entry in found.entries}) > 1:
        notes.append("volumes and pictures in one list: choose with --pattern '*.nii.gz'")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
