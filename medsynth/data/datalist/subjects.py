"""Whose image a file is: told from its path and from those of the others."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from medsynth.data.datalist.listing import SPLIT_NAMES
from medsynth.data.datalist.words import CHANNEL, CONTRASTS, bare, is_time, stem, without_contrast

STUDY_IDS = re.compile(
    r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+|IXI\d{3}-[A-Za-z]+-\d{4}|OAS1_\d{4}|OAS2_\d{4}|OAS3\d{4}|TCGA-\w\w-\w{4}|\d{3}_S_\d{4,5}|"
    r"(?i:BraTS)(?:-[A-Za-z]+-\d{5}|2021_\d{5}|20_[A-Za-z]+_\d{3}|1\d_[A-Za-z0-9]+_[A-Za-z0-9]+))(?![A-Za-z0-9])"
)
"""BIDS, IXI, OASIS-1 to 3, ADNI, BraTS and TCGA."""
DOMAIN = re.compile(r"(train|val|test)([AB])", re.IGNORECASE)
"""Folders of CycleGAN's data: a split and a domain."""
NO_SUBJECT = re.compile(
    rf"({CONTRASTS}|anat\d*|func|(images?|labels?)(tr|ts|va)?|scans?|dicom|nifti|raw|"
    r"(ses|session|visit|run)[-_ ]?\w*)$",
    re.IGNORECASE,
)
"""Names of folders that lie between a subject's folder and its images."""
NUMBERED = re.compile(r"(scan|image|img|im|volume|vol|series|file|acquisition)?[ _-]*\d+", re.IGNORECASE)
"""What says nothing about a patient, in folders that do."""
MOST_CHANNELS = 10  # of nnU-Net, where no dataset.json says how many
FEWEST_BEGINNINGS = 10  # without figures, that stand for patients
PATTERN_HELP = (
    "if that is wrong, give --subject_pattern, such as '(?P<subject>[^/_]+)[^/]*$', or a table of files with a column "
    "subject"
)


def split_of(folder: str) -> str | None:
    """The split that a folder's name gives, alone or as its first or last word: `test`, `slices_train`, `valA`."""
    if match := DOMAIN.fullmatch(folder):
        folder = match[1]
    words = re.split(r"[ _.-]+", folder.lower())
    return next((SPLIT_NAMES[word] for word in (folder.lower(), words[0], words[-1]) if word in SPLIT_NAMES), None)


def study_id(path: Path) -> str | None:
    """The id of a study whose scheme is known."""
    return next((m[1] for part in (stem(path), *reversed(path.parts[:-1])) if (m := STUDY_IDS.search(part))), None)


def owner(path: Path) -> tuple[str, ...]:
    """The folders that may name a subject."""
    return tuple(name for name in path.parts[:-1] if not (NO_SUBJECT.match(name) or split_of(name) or is_time(name)))


def are_subjects(owners: Collection[tuple[str, ...]], names: Collection[str]) -> bool:
    """Whether folders stand for subjects, by the names of the files that several of them have.

    They do if these names only number scans, or are fewer than the folders.
    """
    numbered = [name for name in names if NUMBERED.fullmatch(name)]
    is_word = any(not name[0].isdecimal() for name in numbered)
    return bool(names) and (len(owners) > len(names) or (len(numbered) == len(names) and is_word))


def subject_of(path: Path, arrangement: str = "flat", known: Iterable[str] = (), own: str | None = None) -> str:
    """Whose image a file is.

    Args:
        path: from the folder of all images on.
        arrangement: of that folder, a key of `layout.LAYOUTS`.
        known: ids of participants; one that is in the path is preferred to a guess.
        own: the guess; None: from the path.
    """
    own = own or _guess(path, arrangement)
    if own in known:
        return own
    text = path.with_name(stem(path)).as_posix()
    named = [
        name for name in known if name in text and re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text)
    ]
    return max(named, key=len, default=own)


def guess_subjects(
    paths: Sequence[Path], arrangement: str, channels: Mapping[str, str]
) -> tuple[dict[Path, str], list[str]]:
    """The subject of each volume, and notes on guesses that may be wrong.

    Last words of names that recur with many beginnings distinguish images, not patients.

    Args:
        paths: from the folder of all images on.
        arrangement: of that folder.
        channels: from `channels_of`.
    """
    cut = {path: path.with_name(CHANNEL.sub("", stem(path)) + ".nii") if channels else path for path in paths}
    guesses = {path: _guess(cut[path], arrangement) for path in paths}
    unsure = {path: guess for path, guess in guesses.items() if study_id(path) is None}
    shorter = _without_recurring(unsure.values())
    files: dict[str, list[Path]] = defaultdict(list)
    for path, guess in sorted(unsure.items()):
        files[shorter[guess]].append(path)
    return guesses | {path: shorter[guess] for path, guess in unsure.items()}, [
        f"subjects are guessed: {what}; {PATTERN_HELP}" for what in _doubts(files, guesses, arrangement)
    ]


def _doubts(files: Mapping[str, Sequence[Path]], guesses: Mapping[Path, str], arrangement: str) -> Iterator[str]:
    """For each kind of guess that may be wrong, one that was made: what belongs together, and what is apart."""
    for subject, some in files.items():
        if other := next((path for path in some if guesses[path] != guesses[some[0]]), None):
            yield f"{some[0]} and {other} count as one, {subject}"
            break
    beginnings: dict[str, list[str]] = defaultdict(list)
    for subject in files:
        if start := _split_last(subject.rpartition("/")[2])[0]:
            beginnings[start].append(subject)
    if len(beginnings) == 1:  # of a study, unless it has figures, as patients have
        beginnings = {start: subjects for start, subjects in beginnings.items() if re.search(r"\d", start)}
    if alike := next((subjects for subjects in beginnings.values() if len(subjects) > 1), None):
        one, two = alike[:2]
        yield f"{files[one][0]} and {files[two][0]} count as two, {one} and {two}"
    for subject, some in files.items():
        if arrangement == "flat" and (other := next((p for p in some if owner(p) != owner(some[0])), None)):
            yield f"{some[0]} and {other} count as one, {subject}"
            break


def channels_of(folder: Path, paths: Sequence[Path]) -> dict[str, str]:
    """Names of the channels that end nnU-Net's file names, such as {"0000": "T1"}; empty where there are none.

    Args:
        folder: of all images.
        paths: from there on.
    """
    ends = {path: match[1] for path in paths if (match := CHANNEL.search(stem(path)))}
    numbers = set(ends.values())
    if not numbers or len(ends) < len(paths):
        return {}
    named = _named_channels([(folder / path).parent.parent for path in paths])
    if named and numbers <= named.keys():
        return {number: named[number] for number in sorted(numbers)}
    beginnings = {stem(path)[: -len(end)] for path, end in ends.items()}
    is_count = all(int(number) < MOST_CHANNELS for number in numbers) and len(beginnings) > len(numbers)
    return {number: number for number in sorted(numbers)} if is_count else {}


def _named_channels(folders: Iterable[Path]) -> dict[str, str]:
    """What the `dataset.json` beside the folders of images calls the channels."""
    for folder in set(folders):
        try:
            content = json.loads((folder / "dataset.json").read_text())
            names = content.get("channel_names") or content.get("modality") or {}
            return {f"{int(number):04d}": str(name) for number, name in names.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return {}


def _guess(path: Path, arrangement: str) -> str:
    """The id of a known study, else the subject's folder, else what the file's name says besides its contrast."""
    if study := study_id(path):
        return study
    folders, name = owner(path), stem(path)
    if folders and (arrangement == "subjects" or not bare(name)):
        return "/".join((*folders[:-1], bare(folders[-1]) or folders[-1]))
    own = bare(name) or without_contrast(name)
    return "/".join((*path.parts[:-1], own)) if arrangement in ("classes", "domains") else own


def _without_recurring(names: Iterable[str]) -> dict[str, str]:
    """Names without last or first words that recur: `P1_a`, `P1_b`, `P2_a` are of P1 and P2; `AD_1`, `AD_2` of two.

    What stays has to have figures, as patients' names have, or to begin many names; behind first words, letters, too.
    """
    shorter = {name: name for name in names}
    while True:
        now = set(shorter.values())
        cuts = [_cut_last(now, 1), _cut_last(now, 2), _cut_last(now, 3), _cut_first(now)]
        if (cut := next(filter(None, cuts), None)) is None:
            return shorter
        shorter = {name: cut.get(last, last) for name, last in shorter.items()}


def _cut_last(names: Iterable[str], count: int) -> dict[str, str] | None:
    """Each name without that many last words; None if these tell patients apart."""
    parts = {name: (name, "") for name in names}
    for _ in range(count):
        parts = {name: _one_less(*both) for name, both in parts.items()}
    kept = {start for start, _ in parts.values()}
    has_patients = len(kept) > FEWEST_BEGINNINGS or all(re.search(r"\d", start) for start in kept)
    return {name: start for name, (start, _) in parts.items()} if has_patients and _recurs(parts.values()) else None


def _cut_first(names: Iterable[str]) -> dict[str, str] | None:
    """Each name without its first word; None if that tells patients apart."""
    parts = {}
    for name in names:
        match = re.fullmatch(r"([^ _.+/-]+)[ _.+-]+([^/]+)", name)
        parts[name] = (match[2], match[1]) if match else (name, "")
    has_patients = all(re.search(r"\d", rest) and re.search(r"[^\W\d_]", rest) for rest, _ in parts.values())
    return {name: rest for name, (rest, _) in parts.items()} if has_patients and _recurs(parts.values()) else None


def _recurs(parts: Iterable[tuple[str, str]]) -> bool:
    """Whether what is kept of names is more various than what is cut off, and some of it occurs several times."""
    cut = defaultdict(set)
    for kept, off in parts:
        cut[kept].add(off)
    return len(cut) > len(set().union(*cut.values())) and max(map(len, cut.values())) > 1


def _one_less(start: str, end: str) -> tuple[str, str]:
    shorter, word = _split_last(start)
    return (shorter, f"{word}_{end}") if shorter else (start, end)


def _split_last(name: str) -> tuple[str, str]:
    """What stands before the last word of a name, and that word."""
    match = re.fullmatch(r"(.*?)[ _.+/-]+([^ _.+/-]+)", name)
    return (match[1], match[2]) if match else ("", name)
