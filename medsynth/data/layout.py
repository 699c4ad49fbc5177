"""Tell from names, folders and a table whose images they are and of which class."""

from __future__ import annotations

import csv
import difflib
import fnmatch
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsynth.data import dicom
from medsynth.data.datalist import IMAGE, PAIR, SPLITS, UNKNOWN_LABELS, files_of
from medsynth.data.header import Header
from medsynth.data.listing import SPLIT_NAMES, is_listing, read_listing
from medsynth.data.sources import FORMATS, Source, find_images, is_dicom, is_picture, read_header
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

DOMAIN = re.compile(r"(train|val|test)([AB])", re.IGNORECASE)
"""Folders of CycleGAN's data: a split and a domain."""

NOT_RAW = ("derivatives", "sourcedata", "code")  # folders of a BIDS data set that hold other things than its images
MOST_SCANS = 10  # of one subject in its folder: a folder of more holds scans of many
MOST_NAMED = 10  # of what is wrong, in one line
MOST_CLASSES = 10  # more folders of pictures than that are one for each subject
LAYOUTS = {
    "flat": "images of many subjects in a folder",
    "subjects": "a folder for each subject",
    "bids": "BIDS",
    "classes": "a folder for each class",
    "domains": "two domains: A is the source, B the target",
    "listing": "a table of files",
}


@dataclass
class Survey:
    """What is in a folder.

    Args:
        entries: of a datalist: {"image", "subject", "label"}, or with "source" or "target" instead of "image".
        headers: one an image.
        left_out: for each image that cannot be used, what is wrong with it.
        notes: what a user should look at.
        layout: what the folders stand for, a key of `LAYOUTS`.
        splits: the entries of training, validation and test where folders or a table tell; None where they don't.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layout: str = ""
    splits: dict[str, list[dict[str, Any]]] | None = None

    @property
    def contrasts(self) -> list[str]:
        """Endings of the file names that tell contrasts, such as T1w; the most frequent first."""
        found = (CONTRAST.search(stem(file)) for entry in self.entries for file in files_of(entry).values())
        return [name for name, _ in Counter(match[1] for match in found if match).most_common()]


def survey(
    folder: str | os.PathLike,
    table: dict[str, str | None] | None = None,
    pattern: str = "*",
    frame: int | None = None,
    label: str | None = None,
) -> Survey:
    """Find the images of a folder or of a table of paths, their subjects and their classes; reads headers only.

    Args:
        folder: looked through with all folders in it; or a .csv or .tsv file, see `listing.read_listing`.
        table: class of each subject, from `read_participants`; without one, the folders of pictures are their classes.
        pattern: of the names of the files to take.
        frame: which volume of 4D files to take.
        label: column of the class in a table of paths.
    """
    folder, result = Path(folder), Survey()
    if is_listing(folder):
        result.layout, entries = "listing", _listed(folder, table, label)
    else:
        result.layout, entries = _found(folder, table, pattern, result.notes)
    for entry in entries:
        _add(result, entry, frame)
    if not result.entries:
        bad = [f"{path} {reason}" for path, reason in list(result.left_out.items())[:MOST_NAMED]]
        raise MedsynthError(f"none of the {len(entries)} images in {folder} can be used: {'; '.join(bad)}")
    result.notes += _notes(result, table)
    result.splits = _given_splits(result)
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


def subject_of(path: Path, arrangement: str = "flat", known: Iterable[str] = (), own: str | None = None) -> str:
    """Whose image a file is.

    Args:
        path: from the folder of all images on.
        arrangement: of that folder, a key of `LAYOUTS`.
        known: ids of participants; one that is in the path is preferred to a guess.
        own: the guess; None: from the path.
    """
    own = own or _guess_subject(path, arrangement)
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
    return "/".join((*folders, own)) if arrangement in ("classes", "domains") else own


def _found(
    folder: Path, table: dict[str, str | None] | None, pattern: str, notes: list[str]
) -> tuple[str, list[dict[str, Any]]]:
    """The layout of a folder, and an entry for each image in it."""
    images = [path for path in find_images(folder) if fnmatch.fnmatch(path.name, pattern)]
    paths = {path: path.relative_to(folder) for path in images}
    if (folder / "dataset_description.json").is_file():
        raw = {path: part for path, part in paths.items() if part.parts[0] not in NOT_RAW}
        if len(raw) < len(paths):
            notes.append(f"{len(paths) - len(raw)} images in {', '.join(NOT_RAW)} are no raw data: left out")
        paths = raw
    if not paths:
        if not folder.exists():
            raise MedsynthError(f"there is no folder {folder}: give the one with the scans")
        named = "" if pattern == "*" else f" named {pattern}"
        raise MedsynthError(f"{folder} holds no image{named}: {FORMATS} files are needed")
    layout = _layout(folder, list(paths.values()))
    guesses = _dicom_subjects({path: part for path, part in paths.items() if is_dicom(path)}, notes)
    entries = []
    for path, part in paths.items():
        subject = subject_of(part, layout, table or (), guesses.get(path))
        label = path.parent.name if layout == "classes" and table is None else (table or {}).get(subject)
        entry = {IMAGE[0]: str(path.absolute()), "subject": subject, "label": label}
        if layout == "domains":
            split, domain = next(match for name in reversed(part.parts) if (match := DOMAIN.fullmatch(name))).groups()
            del entry[IMAGE[0]]
            entry |= {PAIR["AB".index(domain.upper())]: str(path.absolute()), "split": SPLIT_NAMES[split.lower()]}
        elif split := next(
            (SPLIT_NAMES[name.lower()] for name in part.parts[:-1] if name.lower() in SPLIT_NAMES), None
        ):
            entry["split"] = split
        entries.append(entry)
    return layout, entries


def _listed(path: Path, table: dict[str, str | None] | None, label: str | None) -> list[dict[str, Any]]:
    """An entry for each row of a table of paths, each with its subject."""
    entries = read_listing(path, None if table else label)
    parent = os.path.commonpath([path.parent.absolute(), *(file for one in entries for file in files_of(one).values())])
    files = [Path(next(iter(files_of(entry).values()))).relative_to(parent) for entry in entries]
    layout = _layout(Path(parent), files)
    for entry, file in zip(entries, files, strict=True):
        entry.setdefault("subject", subject_of(file, layout if layout != "domains" else "flat", table or ()))
        if table is not None:
            entry["label"] = table.get(entry["subject"])
    return entries


def _layout(folder: Path, paths: Sequence[Path]) -> str:
    """What the folders of these images, given from the folder of all on, stand for."""
    domains = [{match[2].upper() for name in path.parts if (match := DOMAIN.fullmatch(name))} for path in paths]
    if all(domains) and set.union(*domains) == {"A", "B"}:
        return "domains"
    if (folder / "dataset_description.json").is_file() or all(path.parts[0].startswith("sub-") for path in paths):
        return "bids"
    folders = {path.parent for path in paths}
    if len(folders) == 1:
        return "flat" if not is_dicom(folder / paths[0]) else "subjects"
    if all(map(is_picture, paths)):
        return "classes" if len({path.name for path in folders}) <= MOST_CLASSES else "subjects"
    return "subjects" if len(paths) <= MOST_SCANS * len(folders) else "flat"


def _dicom_subjects(paths: dict[Path, Path], notes: list[str]) -> dict[Path, str]:
    """The shortest stretch of folders that belongs to one patient id, for each DICOM series; else that id, hashed."""
    patients = {path: dicom.subject_of(path) for path in paths}
    inside: dict[tuple[str, ...], set[str | None]] = defaultdict(set)
    for path, part in paths.items():
        for depth in range(1, len(part.parts)):
            inside[part.parts[:depth]].add(patients[path])
    subjects: dict[Path, str] = {}
    for path, part in paths.items():
        stretches = [part.parts[:depth] for depth in range(1, len(part.parts))]
        own = [names for names in stretches if len(inside[names]) == 1]
        stretch = next((names for names in own if not NO_SUBJECT.match(names[-1])), own[-1] if own else None)
        study = next((match[1] for name in part.parts if (match := STUDY_IDS.search(name))), None)
        subjects[path] = study or ("/".join(stretch) if stretch else patients[path] or path.parent.absolute().name)
    named = {
        patient: sorted({subjects[path] for path in paths if patients[path] == patient})
        for patient in patients.values()
    }
    for patient, names in named.items():
        if patient is None or len(names) == 1:
            continue
        if len(named) == 1:
            notes.append(f"all headers have the same patient id: {_some(names)} were taken as different patients")
            continue
        notes.append(f"{_some(names)} have the same patient id in their headers: taken as one subject, {names[0]}")
        subjects |= {path: names[0] for path in paths if patients[path] == patient}
    return subjects


def _add(result: Survey, entry: dict[str, Any], frame: int | None) -> None:
    """Put an entry among those that can be used, or those that are left out."""
    headers = []
    for file in files_of(entry).values():
        try:
            headers.append(read_header(Source(file, entry.get("frame", frame))))
        except MedsynthError as error:
            result.left_out[Path(file)] = str(error)
            return
    if frame is not None and any(header.frames > 1 for header in headers):
        entry.setdefault("frame", frame)
    result.entries.append(entry)
    result.headers += headers


def _given_splits(found: Survey) -> dict[str, list[dict[str, Any]]] | None:
    """The split that folders or a table told, taken out of the entries; None if they did not, or split a patient."""
    told = [entry.pop("split", None) for entry in found.entries]
    if not all(told) or "training" not in told:
        return None
    sides = defaultdict(set)
    for entry, split in zip(found.entries, told, strict=True):
        sides[entry["subject"]].add(split)
    if torn := sorted(subject for subject, splits in sides.items() if len(splits) > 1):
        found.notes.append(
            f"the given split tears {len(torn)} subjects apart ({_some(torn)}): split by patient instead"
        )
        return None
    return {name: [e for e, split in zip(found.entries, told, strict=True) if split == name] for name in SPLITS}


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
    if len(found.contrasts) > 1 and not any("target" in entry for entry in found.entries):
        notes.append(
            f"several contrasts in one list ({', '.join(found.contrasts)}): choose with --pattern '*_T1w.nii.gz'"
        )
    if len({is_picture(file) for entry in found.entries for file in files_of(entry).values()}) > 1:
        notes.append("volumes and pictures in one list: choose with --pattern '*.nii.gz'")
    return notes + _header_notes(found)


def _header_notes(found: Survey) -> list[str]:
    """What had to be chosen in headers; where it is the same but for its numbers, the first file stands for all."""
    files = [file for entry in found.entries for file in files_of(entry).values()]
    alike: dict[str, list[str]] = defaultdict(list)
    for file, header in zip(files, found.headers, strict=True):
        for note in header.notes:
            alike[re.sub(r"[\d.]+", "0", note)].append(f"{file} {note}")
    return [same[0] + (f" (and {len(same) - 1} more like it)" if len(same) > 1 else "") for same in alike.values()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
