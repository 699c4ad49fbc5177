"""The label maps of a list: which belongs to which image, and the classes that they hold."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medsynth.data.datalist.datalist import IMAGE, Datalist
from medsynth.data.datalist.quick_look import WORKERS
from medsynth.data.datalist.survey import Survey, some
from medsynth.data.io.segmentations import (
    BACKGROUND,
    MOST_CLASSES,
    names_beside,
    read_picture_segmentation,
    read_segmentation,
)
from medsynth.data.io.sources import Source, find_images, is_picture, read_header, read_volume
from medsynth.errors import MedsynthError, check_bool

KEY = "segmentation"


@dataclass
class Found:
    """What the label maps of a list hold.

    Args:
        classes: names by code, of those that occur, and of the background.
        voxels: of each code, in all of them.
        notes: what a user should look at.
    """

    classes: dict[int, str] = field(default_factory=dict)
    voxels: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def list_segmentations(found: Survey, folder: Path, pattern: str) -> None:
    """Give each image of a list its label map; what was listed as an image and fits the pattern is none.

    A label map is that of the images whose names contain what the pattern's stars stand for, or, where that is nothing,
    of those in its folder.

    Args:
        folder: of the images.
        pattern: of names below this folder; or of a path elsewhere, whose last part may have stars.

    Raises:
        MedsynthError: there are none, some images have none, or some have several.
    """
    maps = _matching(folder, pattern)
    found.entries = [entry for entry in found.entries if Path(entry.get(IMAGE[0], "")) not in maps]
    found.left_out = {path: reason for path, reason in found.left_out.items() if path.absolute() not in maps}
    tokens = {path: _token(path, pattern) for path in maps}
    missing = []
    for entry in found.entries:
        if IMAGE[0] not in entry:
            raise MedsynthError("--segmentation is for single images, and these are pairs: leave it out")
        image = Path(entry[IMAGE[0]])
        own = [path for path, token in tokens.items() if _belongs(path, token, image)]
        if len(own) > 1:
            raise MedsynthError(
                f"{image} has several label maps, {own[0].name} and {own[1].name}: name one kind of them"
            )
        entry.pop(KEY, None)
        if own:
            entry[KEY] = str(own[0])
        else:
            missing.append(image)
    if missing or not found.entries:
        raise MedsynthError(
            f"{len(missing)} of {len(found.entries)} images have no label map named {pattern}, such as "
            f"{some([path.name for path in missing])}: add them, or choose the images with --pattern"
        )


def _matching(folder: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        raise MedsynthError(f"--segmentation {pattern} is a folder: name the files in it, as '{pattern}/*.nii.gz' does")
    elsewhere = Path(pattern).parent
    if elsewhere != Path() and elsewhere.is_dir():
        maps = [path.absolute() for path in sorted(elsewhere.glob(Path(pattern).name))]
    else:
        end = pattern if "/" in pattern else f"*/{pattern}"
        below = [path for path in find_images(folder) if fnmatch.fnmatch(f"/{path.relative_to(folder)}", f"*{end}")]
        maps = [path.absolute() for path in below]
    if not maps:
        raise MedsynthError(f"no file fits --segmentation '{pattern}': give the names of the label maps")
    return maps


def _token(path: Path, pattern: str) -> str:
    """What the stars of a pattern's last part stand for in a file's name."""
    parts = re.match(fnmatch.translate(Path(pattern).name).replace(".*", "(.*)"), path.name)
    return max(parts.groups(), key=len).strip("_-. ") if parts and parts.groups() else ""


def _belongs(path: Path, token: str, image: Path) -> bool:
    if not token:
        return path.parent == image.parent
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(token)}(?![A-Za-z0-9])", image.name) is not None


def look_at_segmentations(entries: Sequence[dict[str, Any]]) -> Found:
    """Read all label maps of entries, and check them against their images and against each other.

    Raises:
        MedsynthError: one cannot be used, or holds a code that the names beside lack.
    """
    listed = [entry for entry in entries if entry.get(KEY) and IMAGE[0] in entry]
    names, file = names_beside([entry[KEY] for entry in listed])
    result, empty = Found(), []

    def look(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        try:
            codes, counts = np.unique(_codes_of(entry), return_counts=True)
        except MedsynthError as error:
            raise MedsynthError(f"label map {entry[KEY]} of {entry[IMAGE[0]]} {error}") from error
        if names and (unknown := sorted(set(codes.tolist()) - set(names))):
            raise MedsynthError(
                f"label map {entry[KEY]} holds the code {unknown[0]}, and {file} names {', '.join(map(str, names))}: "
                "add its name there, or change the code"
            )
        return codes, counts

    with ThreadPoolExecutor(WORKERS) as pool:
        bar = tqdm(pool.map(look, listed), "looking at label maps", len(listed), unit="map", disable=not listed)
        for entry, (codes, counts) in zip(listed, bar, strict=True):
            if codes.max() == BACKGROUND:
                empty.append(Path(entry[KEY]).name)
            result.voxels.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    result.voxels.setdefault(BACKGROUND, 0)
    if len(result.voxels) > MOST_CLASSES:
        raise MedsynthError(
            f"the label maps hold {len(result.voxels)} codes, and {MOST_CLASSES} are the most: are they scans?"
        )
    names = {BACKGROUND: "background"} | names
    result.classes = {code: names.get(code, f"class_{code}") for code in sorted(result.voxels)}
    if empty:
        result.notes.append(f"{len(empty)} label maps hold nothing but 0: {some(empty)}")
    if unseen := [name for code, name in names.items() if code not in result.voxels]:
        result.notes.append(f"no label map holds {', '.join(unseen)}, which {file} names: left out of the classes")
    if file is None and listed:
        result.notes.append("the codes of the label maps have no names: write them into a dseg.tsv beside the maps")
    return result


def _codes_of(entry: dict[str, Any]) -> np.ndarray:
    if is_picture(entry[IMAGE[0]]):
        return read_picture_segmentation(entry[KEY], read_header(entry[IMAGE[0]]).shape[:2])
    image = read_volume(Source(entry[IMAGE[0]], entry.get("frame")))
    return read_segmentation(entry[KEY], image.shape[1:], image.affine.numpy())[0]


def segmentation_classes(data: Datalist, use_segmentation: bool) -> dict[int, str]:
    """The classes of a datalist's label maps, names by code, in the order of their indices; none where none are used.

    Raises:
        MedsynthError: it has none, and some are to be used.
    """
    check_bool("use_segmentation", use_segmentation)
    if use_segmentation and not data.segmentation_classes:
        raise MedsynthError(
            f"use_segmentation is true, and the datalist {data.name} has no label maps with classes: make it with "
            "tools/make_datalist.py --segmentation '*_dseg.nii.gz'"
        )
    return data.segmentation_classes if use_segmentation else {}
