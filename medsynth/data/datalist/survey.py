"""What a search for images found, and what of it a user should look at."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsynth.data.datalist.contrasts import advice, counted
from medsynth.data.datalist.datalist import PAIR, files_of
from medsynth.data.io.header import Header
from medsynth.data.io.sources import is_picture, shown
from medsynth.errors import MedsynthError


@dataclass
class Survey:
    """What is in a folder.

    Args:
        entries: of a datalist: {"image", "subject", "label"}, or with "source" or "target" instead of "image".
        left_out: for each image that cannot be used, what is wrong with it.
        notes: what a user should look at.
        layout: what the folders stand for, a key of `layout.LAYOUTS`.
        example: how the name of one picture was read; empty where there are none.
        splits: the entries of training, validation and test where folders or a table give them; else None.
        contrast_of: what each file shows, such as T1w, by its path; empty where nothing says it.
        header_of: of each file, by its path.
        patterns: for each contrast, the pattern of names that chooses it; without those that no pattern chooses.
        pair: patterns of source and target, where a folder is made for pairs; else None.
        chosen: which patterns were chosen by default, and among what; empty where the user gave them.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layout: str = ""
    example: str = ""
    splits: dict[str, list[dict[str, Any]]] | None = None
    contrast_of: dict[str, str] = field(default_factory=dict)
    header_of: dict[str, Header] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    pair: tuple[str, str] | None = None
    chosen: str = ""

    @property
    def contrasts(self) -> list[str]:
        """Contrasts of the images, such as T1w; the most frequent first."""
        return [name for name, _ in Counter(filter(None, self.shown)).most_common()]

    @property
    def headers(self) -> list[Header]:
        """That of each image, where it is known."""
        files = (file for entry in self.entries for file in files_of(entry).values())
        return [self.header_of[file] for file in files if file in self.header_of]

    @property
    def shown(self) -> list[str]:
        """The contrast of each image."""
        return [self.contrast_of.get(file, "") for entry in self.entries for file in files_of(entry).values()]


def has_classes(table: dict[str, str | None] | None) -> bool:
    """Whether a table of participants gives the class of any; another one may give ids and covariates alone."""
    return table is not None and any(table.values())


def notes_of(found: Survey, table: dict[str, str | None] | None) -> list[str]:
    """What a user should look at in what was found.

    Args:
        table: class of each subject; None: there is no table of participants.

    Raises:
        MedsynthError: the table is of other subjects.
    """
    notes = []
    subjects = {entry["subject"] for entry in found.entries}
    if table is not None and (unlisted := sorted(subjects - set(table))):
        if len(unlisted) == len(subjects):
            raise MedsynthError(
                f"no image belongs to a participant of the table: it has ids such as {next(iter(table), 'none')}, "
                f"and the images are of {unlisted[0]}: rename one or the other"
            )
        lack = " and have no class" if has_classes(table) else ""
        notes.append(f"{len(unlisted)} subjects are not in the table of participants{lack}: {some(unlisted)}")
    if len(found.contrasts) > 1 and not any(entry.keys() & set(PAIR) for entry in found.entries):
        notes.append(f"several contrasts in one list, {counted(found.shown)}: {advice(found.shown, found.patterns)}")
    pictures = [is_picture(file) for entry in found.entries for file in files_of(entry).values()]
    if len(set(pictures)) > 1:
        notes.append("volumes and pictures in one datalist: choose with --pattern '*.nii.gz'")
    elif all(pictures):
        notes += _picture_notes(found)
    return notes + _header_notes(found)


def _picture_notes(found: Survey) -> list[str]:
    """What the pictures of a set should have in common and do not."""
    notes = []
    sizes = defaultdict(set)
    owners = [entry["subject"] for entry in found.entries for _ in files_of(entry)]
    for subject, header in zip(owners, found.headers, strict=True):
        sizes[subject].add(f"{header.shape[0]} x {header.shape[1]}")
    if uneven := [subject for subject in sizes if len(sizes[subject]) > 1]:
        notes.append(
            f"{len(uneven)} patients have pictures of several sizes, such as {uneven[0]} "
            f"({', '.join(sorted(sizes[uneven[0]]))}): each is scaled to fit, so heads may have different scales"
        )
    depths = Counter(header.bits for header in found.headers)
    if len(depths) > 1:
        said = ", ".join(f"{count} of {bits or 'other than 8 or 16'} bits" for bits, count in depths.most_common())
        notes.append(
            f"pictures of several bit depths ({said}): each is scaled by its own, which is right only if all use "
            "their full range; else convert them, or train with --window '[low, high]'"
        )
    labels = {entry["label"] for entry in found.entries}
    if len(labels) == 1 and None not in labels:
        notes.append(f"there is only one class, {labels.pop()}: classes cannot be compared")
    return notes


def _header_notes(found: Survey) -> list[str]:
    """What had to be assumed about headers; notes that differ only in their numbers are given once, with a count."""
    files = [file for entry in found.entries for file in files_of(entry).values()]
    alike: dict[str, list[str]] = defaultdict(list)
    for file, header in zip(files, found.headers, strict=True):
        for note in header.notes:
            alike[re.sub(r"[\d.]+", "0", note)].append(f"{shown(file)} {note}")
    return [same[0] + (f" (and {len(same) - 1} similar)" if len(same) > 1 else "") for same in alike.values()]


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
