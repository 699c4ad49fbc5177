"""Which files are label maps by their names, and of which images."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medsynth.data.datalist.words import (
    CHANNEL,
    CONTRAST,
    CONTRASTS,
    IMAGE_WORD,
    LABEL_MAP,
    MASK,
    PROCESSING,
    SEGMENTATION,
    SEPARATORS,
    stem,
)
from medsynth.data.io.sources import is_picture

OTHER = re.compile(f"{CONTRASTS}|{PROCESSING.pattern}", re.IGNORECASE)  # what an image has in its name and its mask not


@dataclass(frozen=True)
class LabelMap:
    """What a label map is of.

    Args:
        key: of a datalist, `mask` (of the brain, the head or the body) or `segmentation`.
        images: those that it belongs to; none: it cannot be used.
    """

    key: str = "segmentation"
    images: list[Path] = field(default_factory=list)


def match_label_maps(paths: Sequence[Path], images: Iterable[Path] | None = None) -> dict[Path, LabelMap]:
    """The label maps, masks and probability maps among files, by the words of their names and folders.

    They belong to the images whose names are equal but for such words, else to those that differ in the contrast, too;
    pictures also to the one that has the same numbers in the same folder. An image has one of each key at most.

    Args:
        paths: of all files, from the folder of all on.
        images: those that they may belong to; None: all others.
    """
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    own = {path: path.relative_to(above) for path in paths}
    maps = [path for path in paths if LABEL_MAP.search(_text(own[path]))]
    wanted = sorted(set(paths) - set(maps) if images is None else set(images) - set(maps))
    if not wanted:
        return {}  # a word that all names have says nothing
    found = {path: LabelMap(_key(own[path])) for path in maps}
    open_maps = [path for path in maps if _is_whole(own[path])]
    for of_map, of_image in ((_exact, _exact), (_loose, _without_channel)):
        known = _by(wanted, lambda path: of_image(own[path]))  # noqa: B023
        _take(found, {path: known.get(of_map(own[path]), []) for path in open_maps})
    known = _by(wanted, lambda path: _numbers(own[path]))
    fits = {path: known.get(_numbers(own[path]), []) for path in open_maps if is_picture(path)}
    _take(found, {path: same for path, same in fits.items() if len(same) == 1})
    return found


def _take(found: dict[Path, LabelMap], fits: dict[Path, list[Path]]) -> None:
    """Give label maps that have no images those that fit and have no other."""
    for path, images in fits.items():
        if not found[path].images:
            taken = {image for one in found.values() if one.key == found[path].key for image in one.images}
            found[path].images.extend(image for image in images if image not in taken)


def _text(path: Path) -> str:
    return path.with_name(stem(path)).as_posix()


def _key(path: Path) -> str:
    """Of a datalist; masks of pictures are of parts of what they show."""
    is_mask = not is_picture(path) and MASK.search(_text(path)) and not LABEL_MAP.search(MASK.sub("", _text(path)))
    return "mask" if is_mask else "segmentation"


def _is_whole(path: Path) -> bool:
    """Whether all such words of a name are those of segmentations or of masks of the whole: not `lesionmask`, `pve`."""
    return not LABEL_MAP.search(SEGMENTATION.sub("", MASK.sub("", _text(path))))


def _exact(path: Path) -> str:
    """A path without the words that distinguish label maps from images."""
    return _bare(_text(path))


def _loose(path: Path) -> str:
    """The same without contrast, steps of processing and `desc`; of a BIDS name, without folders."""
    folders = [part for part in path.parts[:-1] if not re.fullmatch(CONTRASTS, part, re.IGNORECASE)]
    name = re.sub(r"(?<![^\W_])desc-[^\W_]+", "", SEGMENTATION.sub("", MASK.sub("", stem(path))))
    words = [word for word in re.split(SEPARATORS, CONTRAST.sub("", name)) if word and not OTHER.fullmatch(word)]
    return _bare("/".join([*([] if words[:1] == ["sub"] else folders), "_".join(words)]))


def _without_channel(path: Path) -> str:
    return _loose(path.with_name(CHANNEL.sub("", stem(path)) + path.suffix))


def _bare(text: str) -> str:
    text = IMAGE_WORD.sub("", SEGMENTATION.sub("", MASK.sub("", text)))
    return re.sub(r"[ _.-]+", "_", text).replace("/_", "/").strip("_/")


def _numbers(path: Path) -> tuple[str, tuple[str, ...]]:
    """The folders without such words, and the numbers of the name."""
    return _exact(path.parent / "x"), tuple(re.findall(r"\d+", stem(path)))


def _by(paths: Iterable[Path], key: Callable) -> dict:
    found = defaultdict(list)
    for path in paths:
        found[key(path)].append(path)
    return found
