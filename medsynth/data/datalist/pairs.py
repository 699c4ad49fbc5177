"""Sources and target of each subject: found, checked for alignment, registered, and put on one grid."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from skimage.metrics import normalized_mutual_information
from tqdm import tqdm

from medsynth.data.datalist.datalist import IMAGE, PAIR, SPLITS, contrast_of_file, domain_of_file, files_of
from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.multicontrast import contrast_name, grouped, grouped_contrasts
from medsynth.data.datalist.names import match_domains
from medsynth.data.datalist.quick_look import WORKERS, read_scan
from medsynth.data.datalist.registration import Alignment, align, better_shift, resample
from medsynth.data.datalist.survey import Survey
from medsynth.data.datalist.words import CONTRAST, stem
from medsynth.data.io import itk
from medsynth.data.io.sources import (
    OtherGrid,
    Source,
    header_or_none,
    is_picture,
    read_contrasts,
    read_picture,
    read_volume,
    same_grid,
)
from medsynth.data.io.writing import nifti, safe
from medsynth.errors import MedsynthError
from medsynth.storage import disk_errors, write_bytes

MOST_COMPARED, LEAST_COMPARED = 48, 4  # pairs of pictures of equal names that are compared with others
LEAST_ALIKE = 0.7  # part of them that must be more alike than others; chance is a quarter
FEWEST_VOXELS = 8  # along each axis of a volume whose alignment can be judged


@dataclass(frozen=True)
class Verdict:
    """How well a pair is aligned.

    Args:
        alignment: by the headers and after registration.
        aligned: whether the files that the datalist names show the same anatomy at the same position.
    """

    alignment: Alignment
    aligned: bool


def find_pairs(
    folder: Path,
    source: str | Sequence[str],
    target: str,
    table: dict[str, str | None] | None = None,
    subject_pattern: str | None = None,
    modalities: Collection[str] | None = None,
) -> Survey:
    """Match the images of a folder whose names fit two patterns, subject by subject.

    Entries have "source" and "target", or the one that is there. With several patterns of sources they have "sources",
    by contrast, of which some may be missing; targets of subjects without any are left out.

    Args:
        folder, table, subject_pattern, modalities: as in `survey`.
        source, target: patterns of names, such as `*_T1w.nii.gz`; what `*` stands for distinguishes a subject's images.

    Raises:
        MedsynthError: an image fits two patterns, or a subject has two of one contrast.
    """
    wanted = [*([source] if isinstance(source, str) else source), target]
    looked = [
        survey(folder, table, pattern, subject_pattern=subject_pattern, modalities=modalities) for pattern in wanted
    ]
    keys = _keys(wanted, looked)
    patterns, found = dict(zip(keys, wanted, strict=True)), dict(zip(keys, looked, strict=True))
    for one, other in itertools.combinations(keys, 2):
        if twice := {entry["image"] for entry in found[one].entries} & {e["image"] for e in found[other].entries}:
            options = [f"--{domain_of_file(key)} {patterns[key]}" for key in (one, other)]
            raise MedsynthError(f"{min(twice)} matches {' and '.join(options)}: give patterns that differ")
    subjects: dict[str, dict[str, list]] = defaultdict(lambda: {key: [] for key in keys})
    for key, images in found.items():
        for entry in images.entries:
            subjects[entry["subject"]][key].append(entry)
    given = {
        entry["image"]: split
        for images in found.values()
        for split, entries in (images.splits or {}).items()
        for entry in entries
    }
    result = Survey(
        [entry for subject in subjects.values() for entry in _matched(subject, patterns, folder)],
        {path: reason for images in found.values() for path, reason in images.left_out.items()},
        sorted({note for images in found.values() for note in images.notes}),
        header_of={file: header for images in looked for file, header in images.header_of.items()},
        contrast_of={file: contrast for images in looked for file, contrast in images.contrast_of.items()},
    )
    result.example = looked[0].example
    if len(keys) > len(PAIR):
        _leave_out_targets_alone(result, keys)
    result.splits = _given_splits(result, given)
    for key in keys:
        if alone := [entry["subject"] for entry in result.entries if key not in files_of(entry)]:
            lack = (
                f"images have no {key} and are listed alone"
                if key in PAIR
                else f"subjects have no {contrast_of_file(key)}"
            )
            result.notes.append(f"{len(alone)} {lack}, the first is of {alone[0]}")
    return result


def check_alignment(found: Survey, registered: Path | None = None) -> None:
    """Judge each pair of volumes; note in the survey which are not aligned, and leave out what cannot be read.

    Of several contrasts, all others are registered to the first, which makes a pair with each.

    Args:
        found: from `find_pairs`.
        registered: folder for the targets, registered to their sources and on their grids, which the entries then
            name; None: judge the pairs as their headers say.

    Raises:
        MedsynthError: pictures are to be registered, or contrasts of a subject are on different grids and are not.
    """
    volumes = [entry for entry in found.entries if "source" in entry and not is_picture(entry["source"])]
    if registered is None:
        _require_one_grid([entry for entry in volumes if len(entry.get("sources", ())) > 1])
    moving = [
        (entry, key)
        for entry in volumes
        for number, key in enumerate(files_of(entry))
        if number and (key == "target" or registered is not None)
    ]
    pairs = [{**entry, "target": files_of(entry)[key]} for entry, key in moving]
    if not pairs and registered is not None:
        raise MedsynthError("--register aligns volumes, and these are pairs of pictures: leave it out")
    if not pairs:
        return
    if registered is not None:
        with disk_errors(registered):
            registered.mkdir(parents=True, exist_ok=True)
    paths = [None if registered is None else registered / name for name in _names(pairs)]
    with ThreadPoolExecutor(WORKERS) as pool:  # SimpleITK works without Python's lock
        doing = pool.map(_judged, pairs, paths)
        bar = tqdm(doing, "checking pairs" if registered is None else "registering", len(pairs), unit="pair")
        verdicts = list(zip(pairs, bar, paths, strict=True))
    for (entry, key), (_, verdict, path) in zip(moving, verdicts, strict=True):
        if isinstance(verdict, str):
            found.left_out[Path(entry["source"])] = f"and its {contrast_of_file(key)}: {verdict}"
            found.entries = [other for other in found.entries if other is not entry]
        elif path is not None and verdict is not None:
            moved = {contrast_of_file(key): str(path.absolute())}
            entry.update(moved if key == "target" else {"sources": entry["sources"] | moved})
    judged = [
        (f"{entry['subject']}, {contrast_of_file(key)}" if "sources" in entry else entry["subject"], verdict)
        for (entry, key), (_, verdict, _) in zip(moving, verdicts, strict=True)
        if isinstance(verdict, Verdict)
    ]
    found.notes += _in_words(judged, registered is not None)
    if unjudged := len(pairs) - len(judged) - sum(isinstance(verdict, str) for _, verdict, _ in verdicts):
        found.notes.append(f"{unjudged} pairs have fewer than {FEWEST_VOXELS} slices: check their alignment yourself")


def read_pair(entry: Mapping[str, Any]) -> tuple[MetaTensor, MetaTensor]:
    """Source and target (1, X, Y, Z), on the source's grid, in stored units.

    The target is resampled where its grid is another, which is right for pairs whose headers align.

    Raises:
        MedsynthError: one of them cannot be read; the line begins with its path.
    """
    source, target = (_read(entry, key) for key in PAIR)
    if same_grid(source, target):
        return source, target
    moved = resample(_as_image(target), _as_image(source))
    return source, MetaTensor(itk.voxels_of(moved)[None], meta=source.meta)


def read_entry(entry: Mapping[str, Any]) -> dict[str, MetaTensor]:
    """All images of an entry by their keys, as `files_of` has them, on the grid of the first, in stored units.

    Raises:
        MedsynthError: one of them cannot be read, or a contrast is on another grid.
    """
    keys = list(files_of(entry))
    if len(keys) == 1:
        return {keys[0]: read_volume(Source.of(entry, domain_of_file(keys[0])))}
    pair = dict(zip(PAIR, read_pair(entry), strict=True)) if "target" in entry else {}
    if "sources" not in entry:
        return pair
    contrasts = read_contrasts(Source.of(entry, "source"), pair.pop("source", None))
    return {f"source {name}": one for name, one in contrasts.items()} | pair


def _keys(patterns: Sequence[str], looked: Sequence[Survey]) -> list[str]:
    """What `files_of` calls the images of each pattern, of which the last is that of the targets."""
    if len(patterns) == len(PAIR):
        return list(PAIR)
    names: dict[str, str] = {}
    for pattern, images in zip(patterns[:-1], looked, strict=False):
        name = contrast_name(pattern, images.shown)
        if name in names:
            raise MedsynthError(f"--source {names[name]} and --source {pattern} are both {name}: give one of them")
        names[name] = pattern
    if picture := next((e["image"] for images in looked for e in images.entries if is_picture(e["image"])), None):
        raise MedsynthError(f"several --source are of volumes, and {picture} is a picture: give one --source")
    return [*(f"source {name}" for name in names), "target"]


def _leave_out_targets_alone(found: Survey, keys: Sequence[str]) -> None:
    """Move what has none of several sources out of the entries."""
    names = ", ".join(contrast_of_file(key) for key in keys if key != "target")
    for entry in found.entries:
        if "source" not in entry:
            found.left_out[Path(entry["target"])] = f"is of {entry['subject']}, who has none of the sources {names}"
    found.entries = [entry for entry in found.entries if "source" in entry]
    if not found.entries:
        raise MedsynthError(f"no subject has any of the sources {names}: check the patterns")


def _require_one_grid(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse contrasts of a subject on different grids; those that cannot be read are left to reading."""
    for entry in tqdm(entries, "checking grids", unit="subject", disable=not entries):
        source = Source.of(entry, "source")
        headers = [header for one in source.parts.values() if (header := header_or_none(one))]
        if all(same_grid(headers[0], header) for header in headers[1:]):
            continue
        try:
            read_contrasts(source)  # which says what differs
        except OtherGrid as error:
            raise MedsynthError(f"{entry['subject']}: {entry['source']} {error}") from error
        except MedsynthError:
            continue


def _matched(
    subject: Mapping[str, list[dict[str, Any]]], patterns: Mapping[str, str], folder: Path
) -> list[dict[str, Any]]:
    """Entries of one subject: its one source with its one target, else those of the same name but for the pattern."""
    named: dict[str, list[tuple[Any, dict[str, Any]]]] = {key: [] for key in patterns}
    for key, pattern in patterns.items():
        stars = re.compile(fnmatch.translate(pattern.replace("*", "\0")).replace("\0", "(.*)"))
        for entry in subject[key]:
            path = Path(entry["image"])
            text = f"/{path.relative_to(folder.absolute()).as_posix()}" if "/" in pattern else path.name
            named[key].append((stars.match(text).groups(), entry))
    if len(patterns) > len(PAIR):
        paths = {contrast_of_file(key): [(name, entry["image"]) for name, entry in some] for key, some in named.items()}
        grouped_contrasts(next(entry["subject"] for some in subject.values() for entry in some), paths)
    return [_merged(group) for group in grouped(named)]


def _merged(group: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One entry of sources and a target, or of what is there; what they have beside them is that of the first."""
    images = {key: entry["image"] for key, entry in group.items()}
    if sources := {contrast_of_file(key): file for key, file in images.items() if key not in PAIR}:
        alone = {"source": next(iter(sources.values())), "sources": sources}
        images = alone | {key: file for key, file in images.items() if key in PAIR}
    beside = list(group.values())[::-1]
    return images | {name: value for entry in beside for name, value in entry.items() if name not in IMAGE}


def _given_splits(found: Survey, given: Mapping[str, str]) -> dict[str, list[dict[str, Any]]] | None:
    """The split that folders give for the images of all pairs; None if it is incomplete or separates a pair."""
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    for entry in found.entries:
        own = {given.get(file) for file in files_of(entry).values()}
        if len(own) > 1 or None in own:
            return None
        splits[own.pop()].append(entry)
    return splits


def pair_domains(found: Survey) -> None:
    """Make pairs of the pictures of two domains whose names or numbers are equal, if these show the same slices.

    They do if pictures of equal names have more mutual information than those of other names.

    Args:
        found: of the layout `domains`; its entries, splits and notes are changed.
    """
    entries = {key: {Path(entry[key]): entry for entry in found.entries if key in entry} for key in PAIR}
    matches = match_domains(*(list(entries[key]) for key in PAIR))
    share = _share_alike(matches)
    explicit = "give --source and --target, the patterns of their names, to make pairs anyway"
    if not matches:
        found.notes.append("no names or numbers of the two domains match: all images are listed without partner")
    elif share is None:
        found.notes.append(f"{len(matches)} pictures of equal names are too few or too uniform to compare: {explicit}")
    elif share < LEAST_ALIKE:
        found.notes.append(
            f"{len(matches)} pictures of both domains have equal names, but only {share:.0%} of those compared have "
            f"more in common than pictures of other names: listed without partner; {explicit}"
        )
    else:
        found.notes.append(
            f"{len(matches)} pairs by equal names or numbers; {share:.0%} of those compared have more in common than "
            "pictures of other names; to ignore the pairs, train with --paired false"
        )
        for source, target in matches:
            entries["source"][source]["target"] = str(target)
        gone = {id(entries["target"][target]) for _, target in matches}
        found.entries = [entry for entry in found.entries if id(entry) not in gone]
        if found.splits is not None:
            found.splits = {name: [e for e in some if id(e) not in gone] for name, some in found.splits.items()}


def _share_alike(matches: Sequence[tuple[Path, Path]]) -> float | None:
    """Part of the pairs of pictures whose mutual information is larger than with the targets of three other pairs.

    By chance it is a quarter. None where there are too few pairs to compare.
    """
    chosen = [matches[i] for i in np.linspace(0, len(matches) - 1, min(len(matches), MOST_COMPARED)).astype(int)]
    images = []
    for match in chosen:
        with contextlib.suppress(MedsynthError, ValueError):
            images.append([np.asarray(read_picture(path).convert("L").resize((64, 64))) for path in match])
    images = [pair for pair in images if all(np.ptp(image) for image in pair)]
    if len(images) < LEAST_COMPARED:
        return None
    order, count = np.random.default_rng(0).permutation(len(images)), len(images)
    wins = 0
    for index in range(count):
        source, target = images[order[index]]
        others = [images[order[(index + step) % count]][1] for step in (1, 2, 3)]
        own = normalized_mutual_information(source, target, bins=16)
        wins += all(own > normalized_mutual_information(source, other, bins=16) for other in others)
    return wins / count


def _names(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Files for what is registered: subject, number if it has several of a contrast, and contrast if a name has one."""
    contrasts = [match[0] if (match := CONTRAST.search(stem(pair["target"]))) else "" for pair in pairs]
    whole = [(safe(pair["subject"]), contrast) for pair, contrast in zip(pairs, contrasts, strict=True)]
    numbers = [whole[:index].count(name) + 1 for index, name in enumerate(whole)]
    return [
        f"{name}{f'_{number}' if whole.count((name, contrast)) > 1 else ''}{contrast}.nii.gz"
        for (name, contrast), number in zip(whole, numbers, strict=True)
    ]


def _judged(pair: Mapping[str, Any], path: Path | None) -> Verdict | str | None:
    """The verdict; the reason why a file cannot be read; None where it has too few voxels to be judged."""
    try:
        source, target = (_as_image(_read(pair, key)) for key in PAIR)
    except MedsynthError as error:
        return str(error)
    if min(source.GetSize() + target.GetSize()) < FEWEST_VOXELS:
        return None
    alignment = align(source, target)
    if path is None:
        return Verdict(alignment, not alignment.misaligned)
    moved = resample(target, source, alignment.transform)
    write_bytes(path, nifti(_as_stored(moved, target), itk.affine_of(source), "registered"))
    return Verdict(alignment, not alignment.failed and better_shift(source, moved) is None)


def _in_words(judged: Sequence[tuple[str, Verdict]], registered: bool) -> list[str]:
    """One line for each pair that is off, or was."""
    lines = []
    for subject, verdict in judged:
        found = verdict.alignment
        off = f"{found.offset_mm:.1f} mm off by its headers (mutual information {found.before:.2f}, "
        off += f"{found.after:.2f} once registered, {found.chance:.2f} by chance)"
        if not verdict.aligned and (registered or found.failed):
            lines.append(f"{subject}: could not be aligned; do both show the same anatomy? Inspect it, or leave it out")
        elif found.misaligned:
            lines.append(f"{subject}: {'registered, was' if registered else 'not aligned,'} {off}")
    if judged:
        good = sum(verdict.aligned for _, verdict in judged)
        advice = "" if good == len(judged) or registered else ": give --register, or leave out the others"
        lines.append(f"{good} of {len(judged)} pairs are aligned{advice}")
    if small := [verdict.alignment.offset_mm for _, verdict in judged if not verdict.alignment.misaligned]:
        lines.append(f"patients moved by up to {max(small):.1f} mm between the two scans of a pair whose headers agree")
    return lines


def _read(entry: Mapping[str, Any], key: str) -> MetaTensor:
    try:
        return read_scan(Source.of(entry, key))
    except MedsynthError as error:
        raise MedsynthError(f"{entry[key]} {error}") from error


def _as_image(volume: MetaTensor) -> sitk.Image:
    return itk.image_of(volume[0].numpy(), volume.affine.numpy())


def _as_stored(moved: sitk.Image, target: sitk.Image) -> np.ndarray:
    """(X, Y, Z) int16 if the target held such whole numbers, as CT does, else float32."""
    values, before = itk.voxels_of(moved), sitk.GetArrayViewFromImage(target)
    limits = np.iinfo(np.int16)
    if limits.min <= before.min() and before.max() <= limits.max and (before == np.round(before)).all():
        return np.round(values).astype(np.int16)
    return values
