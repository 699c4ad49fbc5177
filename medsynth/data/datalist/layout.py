"""Find the subject and the class of each image from names, folders and a table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from medsynth.data.datalist.contrasts import check_modalities, contrasts_of, default_pair, patterns_of
from medsynth.data.datalist.datalist import IMAGE, PAIR, SPLITS, files_of
from medsynth.data.datalist.label_maps import match_label_maps
from medsynth.data.datalist.listing import is_listing, read_listing
from medsynth.data.datalist.names import Reading, arrange, by_pattern, compiled, domain_of, read_names, split_in
from medsynth.data.datalist.subjects import (
    NO_SUBJECT,
    are_subjects,
    channels_of,
    guess_subjects,
    owner,
    split_of,
    study_id,
    subject_of,
)
from medsynth.data.datalist.survey import Survey, has_classes, notes_of, some
from medsynth.data.datalist.words import bare, fits, stem
from medsynth.data.io import dicom
from medsynth.data.io.sources import FORMATS, Source, find_images, is_dicom, is_picture, read_header, shown
from medsynth.errors import MedsynthError

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
    modalities: Collection[str] | None = None,
) -> Survey:
    """Find the images of a folder or of a table of paths, their subjects and their classes; read headers only.

    Args:
        folder: searched with all its subfolders; or a .csv or .tsv file, see `listing.read_listing`.
        table: class of each subject, from `read_participants`; without classes, the folders of pictures are theirs.
        pattern: of the names of the files to take; with a slash, of their paths from the folder on.
        frame: which volume of 4D files to take.
        label: column of the class in a table of paths.
        subject_pattern: regular expression that finds `subject` and optionally `slice` in a path below the folder,
            without its ending; None: both are guessed.
        modalities: of DICOM in a folder, to take; None: CT and MR.
    """
    folder, result = Path(folder), Survey()
    names = None if subject_pattern is None else compiled(subject_pattern)
    if is_listing(folder):
        result.layout, entries = "listing", _listed(folder, table, label, names, result)
    else:
        result.layout, entries = _found(folder, table, pattern, names, modalities, result)
    for entry in entries:
        _add(result, entry, frame)
    result.example = _example(folder, result.entries)
    _set_positions(result.entries)
    if not result.entries:
        raise _none_is_left(folder, result)
    if result.layout != "listing":
        _choose(result, folder, pattern == "*" and result.layout != "domains")
    if result.pair is None:
        single = [
            result.contrast_of[file]
            for e in result.entries
            if not e.keys() & set(PAIR)
            for file in files_of(e).values()
        ]
        check_modalities(folder, single, result.patterns)
    result.notes += notes_of(result, table)
    result.splits = _given_splits(result)
    return result


def images_by_subject(folder: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """{"image", "subject", "contrast"} of each image of a folder, by names alone; and why others are left out."""
    result = Survey()
    _, entries = _found(folder, None, "*", None, None, result)
    found = [(file, entry["subject"]) for entry in entries for file in files_of(entry).values()]
    return [
        {"image": file, "subject": subject, "contrast": result.contrast_of[file]} for file, subject in found
    ], result.left_out


def _found(
    folder: Path,
    table: dict[str, str | None] | None,
    pattern: str,
    names: re.Pattern[str] | None,
    modalities: Collection[str] | None,
    result: Survey,
) -> tuple[str, list[dict[str, Any]]]:
    """The layout of a folder, and an entry for each image in it."""
    paths, beside = _images(folder, pattern, modalities, result)
    parts = list(paths.values())
    channels = channels_of(folder, parts)
    contrasts = contrasts_of(paths, channels)
    result.contrast_of = {str(path.absolute()): contrast for path, contrast in contrasts.items()}
    layout = _layout(folder, parts)
    labels = dict.fromkeys(paths)
    if layout in ("classes", "subjects") and all(map(is_picture, paths)):
        labels = dict(zip(paths, arrange(parts)[1], strict=True))
    only = {part.parent.name for part in parts}
    is_alone = table is None and layout == "flat" and len(only) == 1
    if is_alone and (name := only.pop()) and not NO_SUBJECT.match(name) and not split_of(name):
        result.notes.append(f"all images are in one folder, {name}: classes need two or more folders")
    readings = _readings(paths, layout, names, channels, result)
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
        entry |= {key: str(file.absolute()) for key, file in beside.get(part, {}).items()}
        entries.append(entry)
    return layout, entries


def _images(
    folder: Path, pattern: str, modalities: Collection[str] | None, result: Survey
) -> tuple[dict[Path, Path], dict[Path, dict[str, Path]]]:
    """Each image of a folder with its path from there on, and the label maps beside each of these.

    Label maps are told by their names, but for DICOM.
    """
    found = {path: path.relative_to(folder) for path in find_images(folder)}
    raw = found
    if (folder / "dataset_description.json").is_file():
        raw = {path: part for path, part in found.items() if part.parts[0] not in NOT_RAW}
        if len(raw) < len(found):
            result.notes.append(f"{len(found) - len(raw)} images in {', '.join(NOT_RAW)} are not raw data: left out")
    paths = {path: part for path, part in raw.items() if fits(part, pattern)}
    near = [part for part in raw.values() if not fits(part, pattern) and fits(Path(str(part).lower()), pattern.lower())]
    case = f"{len(near)} fit but for upper and lower case, such as {near[0].name}" if near else ""
    if not paths:
        if not folder.exists():
            raise MedsynthError(f"there is no folder {folder}: give the one with the scans")
        named = "" if pattern == "*" else f" named {pattern}"
        raise MedsynthError(f"{folder} holds no image{named}: {case or f'{FORMATS} files are needed'}")
    series = [path for path in paths if is_dicom(path)]
    unlisted = {path: reason for path in series if (reason := dicom.unlisted(path, modalities))}
    result.left_out |= unlisted
    paths = {path: part for path, part in paths.items() if path not in unlisted}
    if not paths:
        raise _none_is_left(folder, result)
    if near:
        result.notes.append(f"of the files that do not fit {pattern}, {case}")
    maps = match_label_maps(
        [part for path, part in found.items() if not is_dicom(path)],
        [part for path, part in paths.items() if not is_dicom(path)],
    )
    beside: dict[Path, dict[str, Path]] = defaultdict(dict)
    for part, one in maps.items():
        for image in one.images:
            beside[image][one.key] = folder / part
    for path in [path for path, part in paths.items() if part in maps]:
        if not maps[paths.pop(path)].images:
            result.left_out[path] = "is a label map by its name, and no image belongs to it, or one that has another"
    return paths, beside


def _none_is_left(folder: Path, result: Survey) -> MedsynthError:
    bad = [f"{shown(path)} {reason}" for path, reason in list(result.left_out.items())[:MOST_NAMED]]
    return MedsynthError(f"none of the {len(result.left_out)} images in {folder} can be used: {'; '.join(bad)}")


def _choose(result: Survey, folder: Path, is_whole: bool) -> None:
    """Note how to choose among the contrasts of a folder, and, if it is listed as a whole, the pairs it is made for."""
    files = [file for entry in result.entries for file in files_of(entry).values()]
    found = {Path(file).relative_to(folder.absolute()): result.contrast_of[file] for file in files}
    result.patterns = patterns_of(found)
    volumes = {
        part: contrast for part, contrast in found.items() if not is_picture(part)
    }  # pictures beside are previews
    pair = default_pair(volumes, channels_of(folder, list(volumes))) if is_whole else None
    if pair is not None and all(contrast in result.patterns for contrast in pair):
        result.pair = (result.patterns[pair[0]], result.patterns[pair[1]])


def _readings(
    paths: dict[Path, Path],
    layout: str,
    names: re.Pattern[str] | None,
    channels: dict[str, str],
    result: Survey,
) -> dict[Path, Reading | None]:
    """What the name of each image says; None where it does not match the user's pattern, and is left out."""
    if names is not None:
        found = {path: by_pattern(part, names) for path, part in paths.items()}
        result.left_out |= {
            path: f"does not match --subject_pattern {names.pattern}" for path, reading in found.items() if not reading
        }
        return found
    guesses = _dicom_subjects({path: part for path, part in paths.items() if is_dicom(path)}, result.notes)
    pictures = {path: part for path, part in paths.items() if is_picture(path)}
    volumes = {path: part for path, part in paths.items() if path not in guesses and path not in pictures}
    subjects, notes = guess_subjects(list(volumes.values()), layout, channels)
    result.notes += notes
    found = {path: Reading(guesses.get(path) or subjects[paths[path]], None) for path in [*guesses, *volumes]}
    if pictures:
        readings, notes = read_names(list(pictures.values()), layout)
        result.notes += notes
        found |= dict(zip(pictures, readings, strict=True))
    return found


def _listed(
    path: Path, table: dict[str, str | None] | None, label: str | None, names: re.Pattern[str] | None, result: Survey
) -> list[dict[str, Any]]:
    """An entry for each row of a table of paths, each with its subject."""
    entries = read_listing(path, None if table else label)
    parent = Path(
        os.path.commonpath([path.parent.absolute(), *(file for one in entries for file in files_of(one).values())])
    )
    files = [Path(next(iter(files_of(entry).values()))).relative_to(parent) for entry in entries]
    every = [Path(file) for entry in entries for file in files_of(entry).values()]
    found = contrasts_of({file: file.relative_to(parent) for file in every}, {})
    result.contrast_of = {str(file): contrast for file, contrast in found.items()}
    layout = _layout(parent, files)
    layout = layout if layout != "domains" else "flat"
    unnamed = {parent / file: file for entry, file in zip(entries, files, strict=True) if "subject" not in entry}
    wanted = dict(zip(map(parent.__truediv__, files), files, strict=True)) if names else unnamed
    readings = {wanted[path]: reading for path, reading in _readings(wanted, layout, names, {}, result).items()}
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
    if is_dicom(folder / paths[0]):
        folders = {path.parent for path in paths}
        return "subjects" if len(folders) == 1 or len(paths) <= MOST_SCANS * len(folders) else "flat"
    owners = {owner(path) for path in paths}
    if () in owners or (len(owners) == 1 and any(bare(stem(path)) for path in paths)):
        return "flat"
    folders = defaultdict(set)
    for path in paths:
        folders[stem(path)].add(owner(path))
    shared = [name for name, own in folders.items() if len(own) > 1]
    is_small = len(paths) <= MOST_SCANS * len(owners)
    return "subjects" if is_small or (len(shared) == len(folders) and are_subjects(owners, shared)) else "flat"


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
        subjects[path] = study_id(part) or (
            "/".join(stretch) if stretch else patients[path] or path.parent.absolute().name
        )
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
    headers = {}
    for file in files_of(entry).values():
        try:
            headers[file] = read_header(Source(file, entry.get("frame", frame)))
        except MedsynthError as error:
            result.left_out[Path(file)] = str(error)
            return
    if frame is not None and any(header.frames > 1 for header in headers.values()):
        entry.setdefault("frame", frame)
    result.entries.append(entry)
    result.header_of |= headers


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
