"""Volumes in, normalized 2D slices out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from medsynth.data.cache import Cache
from medsynth.data.output import SliceSpace
from medsynth.data.pipelines import Preprocessing
from medsynth.data.preparation import channels, prepare_all
from medsynth.data.sources import Source
from medsynth.data.spacing import SAME_SPACING, fit_spacing
from medsynth.data.stack import SliceStack
from medsynth.errors import MedsynthError

log = logging.getLogger(__name__)


class SliceDataset(Dataset):
    """Normalized slices of a set of images, each image prepared once into a cache.

    Item i is a dictionary: `image` (C, H, W) float32 in [-1, 1], upright, the slice between its neighbours; `label`, an
    index into the classes, -1 if unknown; `position`, 1 at the top of the head and 0 at the brain's lower end (see
    `Preprocessing` for other planes), NaN if unknown; `index`, i itself.

    Args:
        entries: {"image": path, "subject": str, "label": str or None, "frame": int or None}, as a datalist has them.
        preprocessing: how images become slices.
        classes: names of the labels, in the order of their indices.
        cache_dir: where prepared slices are kept; None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that prepare; 0: this one.
        max_bad_fraction: part of the images that may be unusable; they are named and left out.

    Attributes:
        images: all slices as one array (N, H, W) on disk.
        planes: the same with the slices that are only neighbours, each once.
        channels: (N, C), which planes make up a slice with its neighbours.
        labels, positions: (N,), one a slice.
        subjects: one a slice.
        bounds: (N, 2), the intensities that became -1 and 1.
        preprocessing: with the spacing that was chosen, where it had to be.
        spacing_mm: between rows and columns of the slices.
        slice_mm: between neighbouring slices of a volume.
        space: the same, and the intensities that all images share, for images made like these.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        preprocessing: Preprocessing,
        classes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        max_bad_fraction: float = 0.1,
    ) -> None:
        if not entries:
            raise MedsynthError("there are no images to take slices from: name some in the datalist")
        self.preprocessing = fit_spacing(entries, preprocessing, cache_dir, num_workers)
        store = Cache(cache_dir)
        records, self._lease = prepare_all(
            [Source.of(entry) for entry in entries], self.preprocessing, store, num_workers
        )
        results = [image for record in records for image in record["images"]]
        _check_bad(entries, results, max_bad_fraction)
        good = [(entry, facts) for entry, facts in zip(entries, results, strict=True) if "error" not in facts]
        counts = [len(facts["positions"]) for _, facts in good]
        names = list(classes)
        indices = [names.index(entry["label"]) if entry.get("label") in names else -1 for entry, _ in good]
        starts = np.cumsum([0, *(len(facts.get("planes", [0])) for _, facts in good)])
        rows = [channels(facts, preprocessing.neighbours) for _, facts in good]

        paths = [store.path(record["name"]) for record in records if "checksum" in record]
        self.channels = np.concatenate([start + row for start, row in zip(starts, rows, strict=False)])
        self.planes = SliceStack(paths)
        self.images = SliceStack(paths, self.channels[:, preprocessing.neighbours])
        self.labels = np.repeat(np.array(indices, dtype=np.int64), counts)
        self.subjects = [entry["subject"] for (entry, _), count in zip(good, counts, strict=True) for _ in range(count)]
        self.positions = np.concatenate([np.array(facts["positions"], dtype=np.float32) for _, facts in good])
        self.bounds = np.repeat(np.array([facts["bounds"] for _, facts in good]), counts, axis=0)
        rows, columns, self.slice_mm = _common_spacing(np.array([facts["spacing_mm"] for _, facts in good]))
        self.spacing_mm = (rows, columns)
        shared = (float(self.bounds[0, 0]), float(self.bounds[0, 1]))
        bounds = shared if (self.bounds == shared).all() else None
        modality, plane = preprocessing.modality, preprocessing.plane
        self.space = SliceSpace(modality, self.spacing_mm, self.slice_mm, bounds, plane)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        indices = np.array([range(len(self))[index]])
        image = torch.from_numpy(self.planes[self.channels[indices]]).float()
        return {"image": image[0]} | {name: value[0] for name, value in self.facts(indices).items()}

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """(N, H, W) slices of these indices, as they are stored (float16, or float32 for pictures)."""
        return torch.from_numpy(self.images[indices])

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`label`, `position` and `index` of these slices, each (N,)."""
        return {
            "label": torch.from_numpy(self.labels[indices]),
            "position": torch.from_numpy(self.positions[indices]),
            "index": torch.from_numpy(indices.astype(np.int64)),
        }


def _check_bad(entries: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], max_bad_fraction: float) -> None:
    """Name the images that are left out; stop if they are too many."""
    bad = [(entry["image"], facts["error"]) for entry, facts in zip(entries, results, strict=True) if "error" in facts]
    for path, reason in bad:
        log.warning("left out: %s %s", path, reason)
    if len(bad) == len(entries) or len(bad) > max_bad_fraction * len(entries):
        raise MedsynthError(
            f"{len(bad)} of {len(entries)} images cannot be used, and at most {max_bad_fraction:.0%} may be left out "
            f"(max_bad_fraction): {bad[0][0]} {bad[0][1]}"
        )
    if bad:
        log.warning("%d of %d images left out", len(bad), len(entries))


def _common_spacing(spacings: np.ndarray) -> tuple[float, float, float]:
    """The median of (N, 3) spacings, and a warning where the in-plane ones are not all alike."""
    low, high = spacings[:, :2].min(), spacings[:, :2].max()
    if (np.ptp(spacings[:, :2], axis=0) > SAME_SPACING * spacings[:, :2].min(axis=0)).any():
        log.warning(
            "pixels are %.3g to %.3g mm wide: set spacing_mm, or the same head comes in several sizes", low, high
        )
    rows, columns, slices = np.median(spacings, axis=0)
    return float(rows), float(columns), float(slices)
