"""Find the subject and the class of each image from names, folders and a table."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medsynth.data.datalist.datalist import IMAGE, PAIR, SPLITS, files_of
from medsynth.data.datalist.listing import is_listing, read_listing
from medsynth.data.datalist.names import (
    CONTRAST,
    CONTRASTS,
    STUDY_IDS,
    Reading,
    arrange,
    by_pattern,
    compiled,
    domain_of,
    match_segmentations,
    read_names,
    split_in,
    split_of,
    stem,
)
from medsynth.data.datalist.survey import Survey, has_classes, notes_of, some
from medsynth.data.io import dicom
from medsynth.data.io.sources import FORMATS, Source, find_images, is_dicom, is_picture, read_header
from medsynth.errors import MedsynthError

NO_SUBJECT = re.compile(
    rf"({CONTRASTS}|anat|func|images?|scans?|dicom|nifti|raw|(ses|session|visit|run)[-_ ]?\w*)$", re.IGNORECASE
)
"""Names of folders that lie between a subject's folder and its images."""

NOT_RAW = ("derivatives", "sourcedata", "code")  # folders of a BIDS data set that do not hold its raw images
MOST_SCANS = 10  # of one subject in its folder: a folder of more holds scans of many
MOST_NAMED = 3  # of what is wrong, in one line
LAYOUTS = {
    "flat": "images of many subjects in a folder",
    "subjects": "a folder for each subject",
    "bids": "BIDS",
    "classes": "a folder for each class",
    "domains": "two domains: A is the source, B the target",
    "listing": "a table of files",
}


def survey(
    folder: str | os.PathLike,
    table: dict[str, str | None] | None = None,
    pattern: str = "*",
    frame: int | None = None,
    label: str | None = None,
    subject_pattern: str | None = None,
) -> Survey:
    """Find the images of a folder or of a table of paths, their subjects and their classes; read headers only.

    Args:
        folder: searched with all its subfolders; or a .csv or .tsv file, see `listing.read_listing`.
        table: class of each subject, from `read_participants`; without classes, the folders of pictures are theirs.
        pattern: of the names of the files to take.
        frame: which volume of 4D files to take.
        label: column of the class in a table of paths.
        subject_pattern: regular expression that finds `subject` and optionally `slice` in a path below the folder,
            without its ending; None: both are guessed.
    """
    folder, result = Path(folder), Survey()
    names = None if subject_pattern is None else compiled(subject_pattern)
    if is_listing(folder):
        result.layout, entries = "listing", _listed(folder, table, label, names, result.notes)
    else:
        result.layout, entries = _found(folder, table, pattern, names, result)
    for entry in entries:
        _add(result, entry, frame)
    result.example = _example(folder, result.entries)
    _set_positions(result.entries)
    if not result.entries:
        bad = [f"{path} {reason}" for path, reason in list(result.left_out.items())[:MOST_NAMED]]
        raise MedsynthError(f"none of the {len(result.left_out)} images in {folder} can be used: {'; '.join(bad)}")
    result.notes += notes_of(result, table)
    result.splits = _given_splits(result)
    return result


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
    if arrangement == "subjects" and (names := [n for n in folders if not NO_SUBJECT.match(n) and not split_of(n)]):
        return "/".join(names)
    return "/".join((*folders, own)) if arrangement in ("classes", "domains") else own


def _found(
    folder: Path,
    table: dict[str, str | None] | None,
    pattern: str,
    names: re.Pattern[str] | None,
    result: Survey,
) -> tuple[str, list[dict[str, Any]]]:
    """The layout of a folder, and an entry for each image in it."""
    paths = _images(folder, pattern, result.notes)
    segmentations = match_segmentations([part for path, part in paths.items() if is_picture(path)])
    for path in [path for path, part in paths.items() if part in segmentations]:
        if segmentations[paths[path]] is None:
            result.left_out[path] = "is a segmentation by its name, and no image belongs to it"
        del paths[path]
    beside = {image: folder / part for part, image in segmentations.items() if image is not None}

    layout = _layout(folder, list(paths.values()))
    labels = dict.fromkeys(paths)
    if layout in ("classes", "subjects") and all(map(is_picture, paths)):
        labels = dict(zip(paths, arrange(list(paths.values()))[1], strict=True))
    only = {part.parent.name for part in paths.values()}
    is_alone = table is None and layout == "flat" and len(only) == 1
    if is_alone and (name := only.pop()) and not NO_SUBJECT.match(name) and not split_of(name):
        result.notes.append(f"all images are in one folder, {name}: classes need two or more folders")
    readings = _readings(paths, layout, names, result)
    entries = []
    for path, part in paths.items():
        if (reading := readings[path]) is None:
            continue
        subject = reading.subject if names else subject_of(part, layout, table or (), reading.subject)
        label = table.get(subject) if has_classes(table) else labels[path]
        entry = {IMAGE[0]: str(path.absolute()), "subject": subject, "label": label, "slice": reading.slice}
        if layout == "domains":
            entry = {domain_of(part): entry.pop(IMAGE[0])} | entry
        if split := split_in(part):
            entry["split"] = split
        if part in beside:
            entry["segmentation"] = str(beside[part].absolute())
        entries.append(entry)
    return layout, entries


def _images(folder: Path, pattern: str, notes: list[str]) -> dict[Path, Path]:
    """Each image of a folder, and its path from there on."""
    images = [path for path in find_images(folder) if fnmatch.fnmatch(path.name, pattern)]
    paths = {path: path.relative_to(folder) for path in images}
    if (folder / "dataset_description.json").is_file():
        raw = {path: part for path, part in paths.items() if part.parts[0] not in NOT_RAW}
        if len(raw) < len(paths):
            notes.append(f"{len(paths) - len(raw)} images in {', '.join(NOT_RAW)} are not raw data: left out")
        paths = raw
    if not paths:
        if not folder.exists():
            raise MedsynthError(f"there is no folder {folder}: give the one with the scans")
        named = "" if pattern == "*" else f" named {pattern}"
        raise MedsynthError(f"{folder} holds no image{named}: {FORMATS} files are needed")
    return paths


def _readings(
    paths: dict[Path, Path], layout: str, names: re.Pattern[str] | None, result: Survey
) -> dict[Path, Reading | None]:
    """What the name of each image says; None where it does not match the user's pattern, and is left out."""
    if names is not None:
        found = {path: by_pattern(part, names) for path, part in paths.items()}
        result.left_out |= {
            path: f"does not match --subject_pattern {names.pattern}" for path, reading in found.items() if not reading
        }
        return found
    guesses = _dicom_subjects({path: part for path, part in paths.items() if is_dicom(path)}, result.notes)
    found = {path: Reading(guesses.get(path), None) for path in paths}
    if pictures := {path: part for path, part in paths.items() if is_picture(path)}:
        readings, notes = read_names(list(pictures.values()), layout)
        result.notes += notes
        found |= dict(zip(pictures, readings, strict=True))
    return found


def _listed(
    path: Path, table: dict[str, str | None] | None, label: str | None, names: re.Pattern[str] | None, notes: list[str]
) -> list[dict[str, Any]]:
    """An entry for each row of a table of paths, each with its subject."""
    entries = read_listing(path, None if table else label)
    parent = os.path.commonpath([path.parent.absolute(), *(file for one in entries for file in files_of(one).values())])
    files = [Path(next(iter(files_of(entry).values()))).relative_to(parent) for entry in entries]
    layout = _layout(Path(parent), files)
    layout = layout if layout != "domains" else "flat"
    unnamed = [file for entry, file in zip(entries, files, strict=True) if "subject" not in entry and is_picture(file)]
    readings: dict[Path, Reading | None] = {}
    if names is not None:
        readings = {file: by_pattern(file, names) for file in files}
    elif unnamed:
        found, said = read_names(unnamed, layout)
        readings = dict(zip(unnamed, found, strict=True))
        notes += said
    for entry, file in zip(entries, files, strict=True):
        reading = readings.get(file) or Reading(None, None)
        entry.setdefault("subject", subject_of(file, layout, table or (), reading.subject))
        entry["slice"] = reading.slice
        if has_classes(table):
            entry["label"] = table.get(entry["subject"])
    return entries


def _layout(folder: Path, paths: Sequence[Path]) -> str:
    """What the folders of these images, given from the folder of all on, stand for."""
    if {domain_of(path) for path in paths} == set(PAIR):
        return "domains"
    if (folder / "dataset_description.json").is_file() or all(path.parts[0].startswith("sub-") for path in paths):
        return "bids"
    if all(map(is_picture, paths)):
        return arrange(paths)[0]
    folders = {path.parent for path in paths}
    if len(folders) == 1:
        return "flat" if not is_dicom(folder / paths[0]) else "subjects"
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
            notes.append(f"all headers have the same patient id: {some(names)} were taken as different patients")
            continue
        notes.append(f"{some(names)} have the same patient id in their headers: taken as one subject, {names[0]}")
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


def _set_positions(entries: Sequence[dict[str, Any]]) -> None:
    """Replace slice numbers by positions: 0 and 1 are the first and the last slice of a patient."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        numbers[entry["subject"]] |= {entry.get("slice")} - {None}
    for entry in entries:
        number, own = entry.pop("slice", None), numbers[entry["subject"]]
        if number is not None and len(own) > 1:
            entry["position"] = round((number - min(own)) / (max(own) - min(own)), 4)


def _example(folder: Path, entries: Sequence[dict[str, Any]]) -> str:
    """How a picture's name was read; of one with a slice number, if there is one."""
    pictures = [entry for entry in entries if is_picture(next(iter(files_of(entry).values())))]
    if not pictures:
        return ""
    entry = max(pictures, key=lambda entry: entry.get("slice") is not None)
    parts = {"subject": entry["subject"], "slice": entry.get("slice"), "class": entry["label"]}
    parts |= {"split": entry.get("split")}
    path = Path(next(iter(files_of(entry).values())))
    name = path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path.name
    said = [f"{part} {value}" for part, value in parts.items() if value is not None]
    unknown = [] if entry.get("slice") is not None else ["slice unknown"]
    return f"{name}: {', '.join(said + unknown)}"


def _given_splits(found: Survey) -> dict[str, list[dict[str, Any]]] | None:
    """Remove the given split from the entries and return it; None if it is incomplete or separates a patient."""
    given = [entry.pop("split", None) for entry in found.entries]
    if not all(given) or "training" not in given:
        return None
    sides = defaultdict(set)
    for entry, split in zip(found.entries, given, strict=True):
        sides[entry["subject"]].add(split)
    if mixed := sorted(subject for subject, splits in sides.items() if len(splits) > 1):
        found.notes.append(
            f"the given split puts {len(mixed)} subjects into several splits ({some(mixed)}): split by patient instead"
        )
        return None
    return {name: [e for e, split in zip(found.entries, given, strict=True) if split == name] for name in SPLITS}
