"""Prepare each image once: run its pipeline and keep the slices in the cache."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import nibabel
import numpy as np
import PIL
import scipy
import skimage
import torch
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from medsynth.data import cache, foreground, pipelines, sources, transforms
from medsynth.data.pipelines import Preprocessing
from medsynth.errors import MedsynthError

PICTURES_A_FILE = 256  # a file for each would be slow to find and open
DTYPES = {"mri": np.float16, "ct": np.float16, "image": np.float32}  # 16 bits hold a scan's noise, not a 16-bit picture

log = logging.getLogger(__name__)


class Preparation(Dataset):
    """Groups of images that share a file of the cache; item g is the record of group g, made if it is not there.

    A record holds `name`, and in `images` for each image either `error` or its `positions`, `bounds` and `spacing_mm`.
    """

    def __init__(self, paths: Sequence[str], preprocessing: Preprocessing, store: cache.Cache) -> None:
        size = PICTURES_A_FILE if preprocessing.modality == "image" else 1
        self.groups = [paths[start : start + size] for start in range(0, len(paths), size)]
        self.preprocessing, self.store, self.recipe = preprocessing, store, recipe(preprocessing)
        self.pipeline = pipelines.volume_transforms(preprocessing)

    def __len__(self) -> int:
        return len(self.groups)

    def name(self, group: int) -> str | None:
        """Of its file in the cache; None if one of its images is not there."""
        try:
            return cache.key(self.recipe, [cache.identity(path) for path in self.groups[group]])
        except OSError:
            return None

    def find(self, group: int) -> dict[str, Any] | None:
        """Its record, if the cache has it and nothing was wrong with it: what was wrong may be mended by now."""
        record = self.store.find(name) if (name := self.name(group)) else None
        return None if record is None or any("error" in image for image in record["images"]) else record

    def __getitem__(self, group: int) -> dict[str, Any] | MedsynthError:
        """Its record, or the error that stops all preparation, returned since raising from a worker would garble it."""
        if record := self.find(group):
            return record
        name = self.name(group)
        results = [prepare(path, self.preprocessing.modality, self.pipeline) for path in self.groups[group]]
        record = {"name": name, "images": [facts for _, facts in results]}
        arrays = [slices for slices, _ in results if slices is not None]
        try:
            return self.store.store(name, np.concatenate(arrays), record) if arrays and name else record
        except MedsynthError as error:
            return error


def prepare(path: str, modality: str, pipeline: Compose) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Slices (N, H, W) in [-1, 1] and the facts about them; or None and what is wrong with the image.

    Volumes have an `affine`, of a volume cut like the slices, and `slices`, which of its slices were taken.
    """
    try:
        if sources.is_picture(path) != (modality == "image"):
            kind = (
                "a picture: set modality to image"
                if sources.is_picture(path)
                else "no picture: set modality to mri or ct"
            )
            raise MedsynthError(f"is {kind}")
        sources.read_header(path)
        data = pipeline({"path": path})
    except Exception as error:
        if (reason := _reason(error)) is None:
            raise
        return None, {"error": reason}
    positions = [None if np.isnan(position) else float(position) for position in data["positions"]]
    facts = {"positions": positions, "bounds": list(data["bounds"]), "spacing_mm": list(data["spacing_mm"])}
    facts |= {name: data[name].tolist() for name in ("affine", "slices") if name in data}
    return data[Keys.IMAGE].numpy().astype(DTYPES[modality]), facts


def prepare_all(
    paths: Sequence[str], preprocessing: Preprocessing, cache_dir: str | Path | None, num_workers: int
) -> tuple[cache.Cache, list[dict[str, Any]]]:
    """The records of all groups, in order; missing ones are made, by worker processes if asked for."""
    preparation = Preparation(paths, preprocessing, cache.Cache(cache_dir))
    records = {group: preparation.find(group) for group in range(len(preparation))}
    missing = [group for group, record in records.items() if record is None]
    # processes of one run start at different places, so that each finds the work of the others done
    start = len(missing) * idist.get_rank() // idist.get_world_size()
    missing = missing[start:] + missing[:start]
    workers = min(num_workers, len(missing))
    own = torch.Generator()  # a loader draws a seed for its workers, which would shift the random numbers of training
    made = DataLoader(Subset(preparation, missing), batch_size=None, num_workers=workers, generator=own)
    for group, record in zip(missing, tqdm(made, desc="preparing images", disable=not missing), strict=True):
        if isinstance(record, MedsynthError):
            raise record
        records[group] = record
    return preparation.store, list(records.values())


def recipe(preprocessing: Preprocessing) -> dict[str, Any]:
    """All that decides how an image is prepared: the settings, the code and the libraries."""
    code = "".join(inspect.getsource(module) for module in (foreground, pipelines, sources, transforms))
    libraries = (monai, nibabel, np, PIL, scipy, skimage, torch)
    return {
        "preprocessing": preprocessing.to_dict(),
        "code": hashlib.sha256((code + inspect.getsource(prepare)).encode()).hexdigest(),
        "libraries": {library.__name__: library.__version__ for library in libraries},
    }


def _reason(error: BaseException | None) -> str | None:
    """What is wrong with an image, from an exception or those it was raised from; None for mistakes of this code."""
    while error is not None and not isinstance(error, MedsynthError):
        error = error.__cause__
    return None if error is None else str(error)
