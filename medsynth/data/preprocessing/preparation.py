"""Prepare each image once: run its pipeline and store the slices in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ignite.distributed as idist
import monai
import nibabel
import numpy as np
import PIL
import pydicom
import scipy
import SimpleITK
import skimage
import torch
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing import cache, pipelines, transforms
from medsynth.data.preprocessing.lease import Lease
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.transforms import SEGMENTATION
from medsynth.errors import MedsynthError

PREPARED = 2
"""Raise it whenever the same image, or pair, comes to give other pixels or facts: earlier files of the cache are then
made again. tests/data/preprocessing/test_preparation.py fails if it was forgotten."""

LIBRARIES = (monai, nibabel, np, PIL, pydicom, scipy, SimpleITK, skimage, torch)
PICTURES_A_FILE = 256  # a file for each would be slow to find and open
DTYPES = {"mri": torch.float16, "ct": torch.float16, "image": torch.float32}
"""16 bits hold a scan's noise, not a 16-bit picture."""

log = logging.getLogger(__name__)

Result = tuple[np.ndarray | None, dict[str, Any]]
"""The slices (N, H, W) of an image, then the N of its label map if that is read, indices of the classes; and what is
known of it. Or None and {"error": what is wrong}."""


class Preparation(Dataset):
    """Groups of images that share a file of the cache; item g is the record of group g, made if it does not exist.

    A record holds `name`, and in `images` what is known of each.

    Args:
        images: what `prepare` takes.
        size: images a group.
        identify: returns what changes with the files of an image.
        recipe: what else determines the results.
        prepare: makes the result of one image.
        store: the cache.
    """

    def __init__(
        self,
        images: Sequence[Any],
        size: int,
        identify: Callable[[Any], Any],
        recipe: Any,
        prepare: Callable[[Any], Result],
        store: cache.Cache,
    ) -> None:
        self.groups = [images[start : start + size] for start in range(0, len(images), size)]
        self.prepare, self.store = prepare, store
        self.names = [_name(recipe, identify, group) for group in self.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def find(self, group: int) -> dict[str, Any] | None:
        """Its record, if the cache has it and it holds no error: the cause may be repaired by now."""
        record = self.store.find(self.names[group]) if self.names[group] else None
        return None if record is None or any("error" in image for image in record["images"]) else record

    def __getitem__(self, group: int) -> dict[str, Any] | MedsynthError:
        """Its record, or the error that stops all preparation: raised in a worker, its message would change."""
        if record := self.find(group):
            return record
        results = [self.prepare(image) for image in self.groups[group]]
        record = {"name": self.names[group], "images": [facts for _, facts in results]}
        arrays = [array for array, _ in results if array is not None]
        if not record["name"] or all("error" in image for image in record["images"]):
            return record
        try:
            return self.store.store(record["name"], record, np.concatenate(arrays) if arrays else None)
        except MedsynthError as error:
            return error

    def all(self, num_workers: int, title: str) -> tuple[list[dict[str, Any]], Lease]:
        """The records of all groups, in order; missing ones are made, by worker processes if requested.

        They stay in the cache as long as the lease lives.
        """
        lease = self.store.lease(filter(None, self.names))
        records = {group: self.find(group) for group in range(len(self))}
        missing = [group for group, record in records.items() if record is None]
        # processes of one run start at different groups, so that each finds those that the others have made
        start = len(missing) * idist.get_rank() // idist.get_world_size()
        missing = missing[start:] + missing[:start]
        workers = min(num_workers, len(missing))
        own = (
            torch.Generator()
        )  # a loader draws a seed for its workers, which would shift the random numbers of training
        made = DataLoader(Subset(self, missing), batch_size=None, num_workers=workers, generator=own)
        for group, record in zip(missing, tqdm(made, desc=title, disable=not missing), strict=True):
            if isinstance(record, MedsynthError):
                raise record
            records[group] = record
        return list(records.values()), lease


def _name(recipe: Any, identify: Callable[[Any], Any], group: Sequence[Any]) -> str | None:
    """Of a group's file in the cache; None if one of its images does not exist."""
    try:
        return cache.key(recipe, [identify(image) for image in group])
    except (OSError, MedsynthError):
        return None


def identity(source: Source) -> list[Any]:
    """What changes when one of an image's files is changed or replaced, or another frame is chosen."""
    beside = [file for path in (source.mask, source.segmentation) if path for file in sources.files(path)]
    return [source.frame, *(cache.identity(path) for path in (*sources.files(source), *beside))]


def prepare(source: Source, modality: str, pipeline: Compose) -> Result:
    """Slices in [-1, 1] and the facts about them, or what is wrong with the image.

    Volumes have an `affine`, of a volume of all slices cut like these, `planes`, the indices of its stored slices, and
    `slices`, those of the chosen ones; without neighbours, these are the same. With a label map, `middle` is the pixel
    (row, column) in the middle of what all its slices show, None if that is nothing.
    """
    try:
        if sources.is_picture(source.path) and modality != "image":
            raise MedsynthError("is a picture, and volumes are needed: for pictures, train with --modality image")
        sources.read_header(source)
        data = pipeline({"source": source})
    except Exception as error:
        return None, {"error": reason(error)}
    array, facts = data[Keys.IMAGE].to(DTYPES[modality]).numpy(), facts_of(data)
    if SEGMENTATION not in data:
        return array, facts
    indices = data[SEGMENTATION].numpy()
    return np.concatenate([array, indices.astype(array.dtype)]), facts | {"middle": transforms.middle_of(indices)}


def facts_of(data: dict[str, Any]) -> dict[str, Any]:
    """What a pipeline found, in plain values."""
    positions = [None if np.isnan(position) else float(position) for position in data["positions"]]
    facts = {"positions": positions, "bounds": list(data["bounds"]), "spacing_mm": list(data["spacing_mm"])}
    return (
        facts
        | {name: data[name].tolist() for name in ("affine", "slices", "planes") if name in data}
        | ({"notes": data["notes"]} if data.get("notes") else {})
    )


def log_notes(paths: Sequence[str], images: Sequence[dict[str, Any]]) -> None:
    """Say once for how many images something had to be mended, and name the first.

    Args:
        paths: of the images.
        images: what is known of each, as `prepare` gives it.
    """
    noted: dict[str, list[str]] = {}
    for path, facts in zip(paths, images, strict=True):
        for note in facts.get("notes", []):
            noted.setdefault(note, []).append(path)
    for note, where in noted.items():
        log.info("%d of %d images, the first is %s: %s", len(where), len(paths), where[0], note)


def prepare_all(
    images: Sequence[Source],
    preprocessing: Preprocessing,
    store: cache.Cache,
    num_workers: int,
    segmentation_classes: Mapping[int, str] | None = None,
) -> tuple[list[dict[str, Any]], Lease]:
    """The records of images, in groups, in order; and a lease on their files in the cache.

    Args:
        segmentation_classes: names by code, of the label maps that come with the images; None: none do.
    """
    size = PICTURES_A_FILE if preprocessing.modality == "image" else 1
    pipeline = pipelines.volume_transforms(preprocessing, segmentation_classes)
    one = partial(prepare, modality=preprocessing.modality, pipeline=pipeline)
    how = recipe(preprocessing) | ({"codes": list(segmentation_classes)} if segmentation_classes else {})
    return Preparation(images, size, identity, how, one, store).all(num_workers, "preparing images")


def channel_slices(facts: dict[str, Any], neighbours: int) -> np.ndarray:
    """(N, 1 + 2 * neighbours): indices of each chosen slice and its neighbours in the array of an image."""
    stored = np.array(facts.get("planes", [0]))
    slices = np.array(facts.get("slices", [0]))
    return np.searchsorted(
        stored, np.maximum(stored[0], transforms.with_neighbours(slices, neighbours, stored[-1] + 1))
    )


def recipe(preprocessing: Preprocessing) -> dict[str, Any]:
    """All that determines how an image is prepared: the settings, the version of this code and of the libraries."""
    return {
        "preprocessing": preprocessing.to_dict(),
        "prepared": PREPARED,
        "libraries": {library.__name__: library.__version__ for library in LIBRARIES},
    }


def reason(error: BaseException | None) -> str:
    """What is wrong with an image, from an exception or those it was raised from; other exceptions are raised again."""
    cause = error
    while cause is not None and not isinstance(cause, MedsynthError):
        cause = cause.__cause__
    if cause is None:
        raise error
    return str(cause)
