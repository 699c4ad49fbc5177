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
from monai.transforms import Compose

from medsynth.data.datalist import datalist
from medsynth.data.datalist.datalist import PAIR, Datalist, files_of
from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing, as_grey, locate, volume_bounds
from medsynth.data.preprocessing.preparation import reason
from medsynth.errors import MedsynthError
from medsynth.evaluation.report.held_out import Patients, held_out_entries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a prediction was made, from its sidecar.

    Args:
        source, target: how images of either domain were prepared.
        bounds: the predicted intensities of black and white.
    """

    source: Preprocessing
    target: Preprocessing
    bounds: tuple[float, float]

    @property
    def has_units(self) -> bool:
        """Whether the values of a target mean the same in every image, as those of CT and of pictures do."""
        return self.target.modality in ("ct", "image")


@dataclass(frozen=True)
class Pair:
    """A prediction and what it should be.

    Args:
        source: what it was made from; None if unknown.
        mask: file that is above 0 inside the body; None: to be found.
        recipe: None if unknown.
    """

    subject: str
    prediction: Source
    target: Source
    source: Source | None = None
    mask: Source | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z) in stored units with the affine to RAS mm; a picture is (rows, columns, 1) with pixels of 1."""

    voxels: np.ndarray
    affine: np.ndarray

    def between(self, bounds: tuple[float, float]) -> Volume:
        """These intensities as 0 and 1."""
        low, high = bounds
        return Volume((self.voxels - low) / (high - low), self.affine)


def find_pairs(
    target: str | Datalist | None, prediction: str | None, split: str = "test"
) -> tuple[list[Pair], list[Pair], Patients]:
    """Match predictions with targets: by the digest in their sidecar, equal file names, or a subject's id in the name.

    Where the digest is that of an entry's "target", the prediction goes the other way, and its truth is the "source".

    Args:
        target: a datalist, whose held-out entries with a "target" (or "image") count, or a folder.
        prediction: a folder.
        split: of the datalist: `validation`, `test` or `both`.

    Returns: the pairs, the training pairs of the datalist (source and target), for baselines, and whose the pairs are.

    Raises:
        MedsynthError: nothing matches, or a prediction matches several targets.
    """
    if target is None or prediction is None:
        raise MedsynthError("pairs need both: --real, datalist or folder of the targets, and --synthetic, predictions")
    held_out, training = _targets(target, split)
    found = [path for path in sources.find_images(Path(prediction)) if "Quantity" not in _sidecar(path)]
    pairs = [pair for entry in held_out if (pair := _pair(entry, held_out, found)) is not None]
    if not pairs:
        raise MedsynthError(
            f"none of the {len(found)} images in {prediction} belongs to one of the {len(held_out)} targets: name them "
            "like the targets, or with the subject in the name"
        )
    if len(pairs) < len(held_out):
        log.warning("%d of %d targets have no prediction", len(held_out) - len(pairs), len(held_out))
    turned = pairs[0].target.path in {entry.get("source") for entry in held_out}
    both = [_turned(entry) if turned else entry for entry in training]
    others = [
        Pair(e["subject"], _target(e), _target(e), _of(e, "source"), _of(e, "mask"), pairs[0].recipe)
        for e in both
        if e.keys() >= set(PAIR)
    ]
    return pairs, others, Patients.of(held_out, [pair.subject for pair in pairs])


def read(source: Source) -> Volume:
    """The voxels of a volume or a picture.

    Raises:
        MedsynthError: why it cannot be read, with the file's name.
    """
    try:
        if sources.is_picture(source.path):
            picture = as_grey(sources.read_picture(source.path))
            return Volume(np.asarray(picture, dtype=np.float32)[..., None], np.eye(4))
        image = sources.read_volume(source)
        return Volume(image[0].numpy(), np.asarray(image.affine, dtype=np.float64))
    except (MedsynthError, OSError) as error:
        raise MedsynthError(f"{source.path} {error}") from error


def bounds_of(source: Source, preprocessing: Preprocessing) -> tuple[float, float]:
    """The intensities of an image that became black and white in training."""
    try:
        return Compose([*locate(preprocessing), volume_bounds(preprocessing)])({"source": source})["bounds"]
    except (MedsynthError, RuntimeError) as error:
        raise MedsynthError(f"{source.path} {reason(error)}") from error


def _targets(path: str | Datalist, split: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Held-out and training entries."""
    if isinstance(path, Datalist):
        data = path
    elif Path(path).suffix.lower() != ".json":
        return [{"image": str(image), "subject": _stem(image)} for image in sources.find_images(path)], []
    else:
        try:
            data = datalist.read(path, PAIR)
        except MedsynthError:
            data = datalist.read(path)
    held_out = [entry for entry in held_out_entries(data, split) if {"target", "image"} & entry.keys()]
    if not held_out:
        raise MedsynthError(f"datalist {data.name} holds no held-out targets: an evaluation needs some")
    return held_out, data.splits["training"]


def _target(entry: dict[str, Any]) -> Source:
    return Source.of(entry, "target" if "target" in entry else "image")


def _of(entry: dict[str, Any], key: str) -> Source | None:
    return Source.of(entry, key) if key in entry else None


def _turned(entry: dict[str, Any]) -> dict[str, Any]:
    """The other way: what was the source is the target."""
    return entry | {new: entry[old] for old, new in zip(PAIR, reversed(PAIR), strict=True) if old in entry}


def _pair(entry: dict[str, Any], entries: Sequence[dict[str, Any]], found: Sequence[Path]) -> Pair | None:
    """An entry with its prediction, None if there is none."""
    files = files_of(entry)
    digests = {sources.digest(file): key for key, file in files.items()}
    names = {_stem(Path(file)) for file in files.values()}
    others = [str(other["subject"]) for other in entries]
    own = str(entry["subject"])
    by_name = [path for path in found if _stem(path) in names]
    by_digest = [] if by_name else [path for path in found if _sidecar(path).get("InputDigest") in digests]
    by_subject = [] if by_name or by_digest else [path for path in found if _subject_in(_stem(path), others) == own]
    matches = by_name or by_digest or by_subject
    if len(matches) > 1:
        raise MedsynthError(f"{own}: {len(matches)} predictions fit, such as {matches[0]} and {matches[1]}: keep one")
    if not matches:
        return None
    sidecar = _sidecar(matches[0])
    if digests.get(sidecar.get("InputDigest")) == "target" and "source" in entry:
        entry = _turned(entry)
    source, mask = _of(entry, "source"), _of(entry, "mask")
    return Pair(entry["subject"], Source(str(matches[0])), _target(entry), source, mask, _recipe(sidecar))


def _subject_in(name: str, subjects: Sequence[str]) -> str | None:
    """The longest id that stands in a name, not as a part of a longer word."""
    fitting = [s for s in subjects if re.search(rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])", name)]
    return max(fitting, key=len, default=None)


def _sidecar(path: Path) -> dict[str, Any]:
    """What stands beside an image, {} if nothing can be read there."""
    try:
        content = json.loads(path.with_name(f"{_stem(path)}.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recipe(sidecar: dict[str, Any]) -> Recipe | None:
    if not {"InputPreprocessing", "Preprocessing", "IntensityBounds"} <= sidecar.keys():
        return None
    source, target = (Preprocessing.from_dict(sidecar[key]) for key in ("InputPreprocessing", "Preprocessing"))
    low, high = sidecar["IntensityBounds"]
    return Recipe(source, target, (float(low), float(high)))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]
