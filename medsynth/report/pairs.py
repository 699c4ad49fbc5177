"""Predictions and their targets: found, matched, and read on one grid."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medsynth.data import datalist, sources
from medsynth.data.datalist import PAIR, files_of
from medsynth.data.pipelines import as_grey
from medsynth.data.sources import Source
from medsynth.errors import MedsynthError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A prediction and what it should be.

    Args:
        source: what it was made from; None if unknown.
        mask: file that is above 0 inside the body; None: to be found.
    """

    subject: str
    prediction: Source
    target: Source
    source: Source | None = None
    mask: Source | None = None


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z) in stored units with the affine to RAS mm; a picture is (rows, columns, 1) with pixels of 1."""

    voxels: np.ndarray
    affine: np.ndarray


def find_pairs(target: str | None, prediction: str | None) -> tuple[list[Pair], list[Pair]]:
    """Match predictions with targets: by the digest in their sidecar, equal file names, or a subject's id in the name.

    Args:
        target: a datalist, whose held-out entries with a "target" (or "image") count, or a folder.
        prediction: a folder.

    Returns: the pairs, and the training pairs of the datalist (source and target), for baselines.

    Raises:
        MedsynthError: nothing matches, or a prediction matches several targets.
    """
    if target is None or prediction is None:
        raise MedsynthError("pairs need both: --real, datalist or folder of the targets, and --synthetic, predictions")
    held_out, training = _targets(target)
    found = sources.find_images(Path(prediction))
    pairs = [
        Pair(entry["subject"], Source(str(path)), _target(entry), _of(entry, "source"), _of(entry, "mask"))
        for entry in held_out
        if (path := _match(entry, held_out, found)) is not None
    ]
    if not pairs:
        raise MedsynthError(
            f"none of the {len(found)} images in {prediction} belongs to one of the {len(held_out)} targets: name them "
            "like the targets, or with the subject in the name"
        )
    if len(pairs) < len(held_out):
        log.warning("%d of %d targets have no prediction", len(held_out) - len(pairs), len(held_out))
    train = [Pair(e["subject"], _target(e), _target(e), _of(e, "source"), _of(e, "mask")) for e in training]
    return pairs, [pair for pair in train if pair.source is not None]


def read(source: Source) -> Volume:
    """The voxels of a volume or a picture.

    Raises:
        MedsynthError: why it cannot be read, with the file's name.
    """
    try:
        if sources.is_picture(source.path):
            with Image.open(source.path) as picture:
                return Volume(np.asarray(as_grey(picture), dtype=np.float32)[..., None], np.eye(4))
        image = sources.read_volume(source)
        return Volume(image[0].numpy(), np.asarray(image.affine, dtype=np.float64))
    except (MedsynthError, OSError) as error:
        raise MedsynthError(f"{source.path} {error}") from error


def _targets(path: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Held-out and training entries."""
    if Path(path).suffix.lower() != ".json":
        return [{"image": str(image), "subject": _stem(image)} for image in sources.find_images(path)], []
    try:
        data = datalist.read(path, PAIR)
    except MedsynthError:
        data = datalist.read(path)
    held_out = [
        entry for entry in data.splits["validation"] + data.splits["test"] if {"target", "image"} & entry.keys()
    ]
    if not held_out:
        raise MedsynthError(f"datalist {path} holds no validation or test targets: predictions of others prove nothing")
    return held_out, data.splits["training"]


def _target(entry: dict[str, Any]) -> Source:
    return Source.of(entry, "target" if "target" in entry else "image")


def _of(entry: dict[str, Any], key: str) -> Source | None:
    return Source.of(entry, key) if key in entry else None


def _match(entry: dict[str, Any], entries: Sequence[dict[str, Any]], found: Sequence[Path]) -> Path | None:
    """The prediction of an entry, None if there is none."""
    files = list(files_of(entry).values()) or [entry["image"]]
    names, digests = {_stem(Path(file)) for file in files}, {sources.digest(file) for file in files}
    others = [str(other["subject"]) for other in entries]
    own = str(entry["subject"])
    by_name = [path for path in found if _stem(path) in names]
    by_digest = [] if by_name else [path for path in found if _input_digest(path) in digests]
    by_subject = [] if by_name or by_digest else [path for path in found if _subject_in(_stem(path), others) == own]
    matches = by_name or by_digest or by_subject
    if len(matches) > 1:
        raise MedsynthError(f"{own}: {len(matches)} predictions fit, such as {matches[0]} and {matches[1]}: keep one")
    return matches[0] if matches else None


def _subject_in(name: str, subjects: Sequence[str]) -> str | None:
    """The longest id that stands in a name, not as a part of a longer word."""
    fitting = [s for s in subjects if re.search(rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])", name)]
    return max(fitting, key=len, default=None)


def _input_digest(path: Path) -> str | None:
    try:
        return json.loads(path.with_name(f"{_stem(path)}.json").read_text())["InputDigest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]
