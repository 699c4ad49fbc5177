"""What the names of files and folders say: patients, slices, classes, splits and pairs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsynth.data.datalist.subjects import DOMAIN, split_of, study_id
from medsynth.data.datalist.words import CONTRASTS, FIRST_CONTRAST, bare, stem, without_contrast
from medsynth.errors import MedsynthError

NUMBERED = re.compile(
    r"(?P<before>.*?)[ _.-]*(?:(?:slice|slc|image|img|frame|z)[ _.-]*)?(?P<number>\d+)", re.IGNORECASE
)
"""What stands before the number that ends a name, and that number: `case_001_slice_12`, `218391_78`, `mild_3`."""
MOST_CLASSES = 10  # more folders of pictures than that are one for each subject
LEAST_NAMES, LEAST_WORDS = 2, 3  # beginnings of names in a folder, with and without figures, that stand for patients


@dataclass(frozen=True)
class Reading:
    """What a picture's name says.

    Args:
        subject: None where a folder or the id of a known study names it, not the file.
        slice: number of the slice; None if there is none.
        is_own: the name identifies no patient, so the picture counts as a patient of its own.
    """

    subject: str | None
    slice: int | None
    is_own: bool = False


def split_in(path: Path) -> str | None:
    """The split that the innermost of a file's folders that names one gives."""
    return next((split for name in reversed(path.parts[:-1]) if (split := split_of(name))), None)


def domain_of(path: Path) -> str | None:
    """`source` below a folder such as `trainA`, `target` below one such as `testB`; None elsewhere."""
    found = next((match[2].upper() for name in reversed(path.parts[:-1]) if (match := DOMAIN.fullmatch(name))), None)
    return found and {"A": "source", "B": "target"}[found]


def arrange(paths: Sequence[Path]) -> tuple[str, list[str | None]]:
    """What the folders of pictures, given from the folder of all on, stand for: their layout, and each one's class."""
    inner = [[name for name in path.parts[:-1] if split_of(name) is None] for path in paths]
    while all(inner) and len({folders[-1] for folders in inner}) == 1:
        inner = [folders[:-1] for folders in inner]
    last = {folders[-1] if folders else "" for folders in inner}
    if len(last) == 1:
        return "flat", [None] * len(paths)
    above = [folders[-2] if len(folders) > 1 else None for folders in inner]
    has_classes = None not in above and 1 < len(set(above)) <= MOST_CLASSES
    if len(last) <= MOST_CLASSES and not (has_classes and _are_patients({tuple(folders[-2:]) for folders in inner})):
        return "classes", [folders[-1] if folders else None for folders in inner]
    return "subjects", above if has_classes else [None] * len(paths)


def read_names(paths: Sequence[Path], layout: str) -> tuple[list[Reading], list[str]]:
    """Subject and slice of each picture, and notes for the user on how they were found.

    If names in a folder begin differently, the patient stands before the number at the end: `218391_78` is slice 78 of
    218391. If all begin alike, such as `mild_17`, the number identifies the picture, and nothing identifies patients.

    Args:
        paths: from the folder of all pictures on.
        layout: of that folder, see `layout.LAYOUTS`.
    """
    parsed = [_parse(path) for path in paths]
    beginnings: dict[Path, set[str]] = defaultdict(set)
    for path, (before, _) in zip(paths, parsed, strict=True):
        beginnings[path.parent] |= {before} - {""}
    counts = [(len(found), any(re.search(r"\d", name) for name in found)) for found in beginnings.values()]
    has_patients = any(count >= (LEAST_NAMES if figures else LEAST_WORDS) for count, figures in counts)
    starts_anew = has_patients and _starts_anew(paths, parsed)
    found = []
    for path, (before, number) in zip(paths, parsed, strict=True):
        if layout == "subjects" or study_id(path):
            found.append(Reading(None, number))
        elif has_patients and before and number is not None:
            found.append(Reading("/".join((*_folders(path), before)) if starts_anew else before, number))
        else:
            own = stem(path) if layout == "domains" else bare(stem(path)) or without_contrast(stem(path))
            folders = path.parts[:-1] if layout in ("classes", "domains") else ()
            found.append(Reading("/".join((*folders, own)), None, is_own=True))
    return found, _notes(paths, found, starts_anew)


def by_pattern(path: Path, pattern: re.Pattern[str]) -> Reading | None:
    """What a user's own pattern finds in a path without its ending; None if it does not match."""
    match = pattern.search(path.with_name(stem(path)).as_posix())
    if match is None or not match["subject"]:
        return None
    number = match["slice"] if "slice" in pattern.groupindex else None
    return Reading(match["subject"], int(number) if number and number.isdecimal() else None)


def compiled(pattern: str) -> re.Pattern[str]:
    """A user's pattern of subjects.

    Raises:
        MedsynthError: it is not a regular expression, or has no group `subject`.
    """
    example = r"such as '(?P<subject>\d+)_(?P<slice>\d+)$'"
    try:
        made = re.compile(pattern)
    except re.error as error:
        raise MedsynthError(
            f"--subject_pattern {pattern} is not a regular expression ({error}): give one {example}"
        ) from error
    if "subject" not in made.groupindex:
        raise MedsynthError(f"--subject_pattern {pattern} has no group called subject: give one {example}")
    return made


def match_domains(sources: Sequence[Path], targets: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pictures of two domains that equal names, or equal numbers in them, may make pairs of, split by split."""
    for name in (_words, lambda path: tuple(re.findall(r"\d+", "_".join(_words(path))))):
        one, other = (_unique(paths, lambda path: (split_in(path), name(path))) for paths in (sources, targets))  # noqa: B023
        common = [key for key in one if key in other and key[1]]
        if 2 * len(common) >= min(len(sources), len(targets)):
            return [(one[key], other[key]) for key in common]
    return []


def _are_patients(folders: set[tuple[str, ...]]) -> bool:
    """Whether folders, each with the one above it, are of patients: all numbered, none in two of those above."""
    names = [name for _, name in folders]
    above = {name for name, _ in folders}
    return len(above) < len(names) == len(set(names)) and all(re.search(r"\d", name) for name in names)


def _parse(path: Path) -> tuple[str, int | None]:
    """What names the patient before a name's last number, and that number."""
    match = NUMBERED.fullmatch(without_contrast(stem(path)))
    return (bare(match["before"]), int(match["number"])) if match else ("", None)


def _words(path: Path) -> tuple[str, ...]:
    """Of a name, without those of contrasts: (s07, 012) of `s07_t1_012`."""
    words = [word for word in re.split(r"[ _.-]+", stem(path)) if not re.fullmatch(CONTRASTS, word, re.IGNORECASE)]
    return tuple(filter(None, (FIRST_CONTRAST.sub("", word) for word in words)))


def _folders(path: Path) -> list[str]:
    """The folders of a picture; of those of two domains, the same for both."""
    return [match[1] if (match := DOMAIN.fullmatch(name)) else name for name in path.parts[:-1]]


def _starts_anew(paths: Sequence[Path], parsed: Sequence[tuple[str, int | None]]) -> bool:
    """Whether one slice of one patient lies in two folders: then each folder counts its patients from the start."""
    seen: dict[tuple, Path] = {}
    for path, reading in zip(paths, parsed, strict=True):
        domain = domain_of(path)
        if reading[1] is not None and seen.setdefault((domain, *reading), path.parent) != path.parent:
            return True
    return False


def _notes(paths: Sequence[Path], found: Sequence[Reading], starts_anew: bool) -> list[str]:
    notes = []
    own = [path for path, reading in zip(paths, found, strict=True) if reading.is_own]
    if len(own) > 1:
        notes.append(
            f"pictures each count as a patient of their own, since names such as {own[0].name} identify none: "
            "slices of one patient may end up in two splits; if names hold patients, give --subject_pattern"
        )
    elif not own and len({reading.subject for reading in found} - {None}) == len(found) > 1:
        notes.append("each patient has one picture: slice positions are unknown")
    if starts_anew:
        notes.append(
            "the same patient and slice numbers occur in several folders and count as different patients; if they are "
            "the same patients, they may end up in two splits: give --subject_pattern"
        )
    return notes


def _unique(paths: Iterable[Path], key) -> dict:
    """The path of each key that only one has."""
    found = defaultdict(list)
    for path in paths:
        found[key(path)].append(path)
    return {name: same[0] for name, same in found.items() if len(same) == 1}
