"""Volumes in, normalized 2D slices out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from medsynth.data.datalist.datalist import covariates_of
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.picture_range import choose_range
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.preparation import channel_slices, log_notes, prepare_all
from medsynth.data.preprocessing.region import IMAGE_KEYS, choose_region, first_images
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.spacing import SAME_SPACING, fit_spacing
from medsynth.data.preprocessing.stack import SliceStack
from medsynth.errors import MedsynthError

log = logging.getLogger(__name__)


class PreparedSlices(Dataset):
    """Slices of images that have been prepared, with what is known of each.

    Item i is a dictionary: the views, each (C, H, W) float32 in [-1, 1], upright; `label`, an index into the classes,
    -1 if unknown; `position`, from 0 to 1 (see `Preprocessing`), NaN if unknown; `index`, i itself.

    Args:
        entries: of a datalist; those that could not be used are left out.
        records: one a group of images, and in them what is known of each, as `prepare_all` gives them.
        store: the cache that they are in.
        classes: names of the labels, in the order of their indices.
        max_bad_fraction: part of the images that may be unusable.

    Attributes:
        stored_slices: (M, H, W) on disk, every slice and every neighbour once.
        views: by name, (N, C), which of them make up the channels of each slice; -1 for a missing one.
        labels, positions: (N,), one a slice.
        subjects: one a slice.
        entries: those that could be used; entry_indices: (N,), which of them each slice is of.
        spacing_mm: between rows and columns of the slices.
        slice_mm: between neighbouring slices of a volume.
    """

    views: dict[str, np.ndarray]

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        records: Sequence[dict[str, Any]],
        store: Cache,
        classes: Sequence[str],
        max_bad_fraction: float,
    ) -> None:
        results = [image for record in records for image in record["images"]]
        _check_bad(entries, results, max_bad_fraction)
        log_notes([_name(entry) for entry in entries], results)
        good = [(entry, facts) for entry, facts in zip(entries, results, strict=True) if "error" not in facts]
        counts = [len(facts["positions"]) for _, facts in good]
        names = list(classes)
        indices = [names.index(entry["label"]) if entry.get("label") in names else -1 for entry, _ in good]

        self.stored_slices = SliceStack([store.path(record["name"]) for record in records if "checksum" in record])
        self.labels = np.repeat(np.array(indices, dtype=np.int64), counts)
        self.subjects = [entry["subject"] for (entry, _), count in zip(good, counts, strict=True) for _ in range(count)]
        self.positions = np.concatenate([_positions(entry, facts) for entry, facts in good])
        rows, columns, self.slice_mm = _common_spacing(np.array([facts["spacing_mm"] for _, facts in good]))
        self.spacing_mm = (rows, columns)
        self.entries, self.entry_indices = [entry for entry, _ in good], np.repeat(np.arange(len(good)), counts)
        self._images = [facts for _, facts in good]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        indices = np.array([range(len(self))[index]])
        views = {name: self.stored_slices.read(rows[indices])[0] for name, rows in self.views.items()}
        return views | {name: value[0] for name, value in self.facts(indices).items()}

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`label`, `position` and `index` of these slices, each (N,)."""
        return {
            "label": torch.from_numpy(self.labels[indices]),
            "position": torch.from_numpy(self.positions[indices]),
            "index": torch.from_numpy(indices.astype(np.int64)),
        }

    def _described(self, classes: Mapping[int, str] | None) -> dict[str, Any] | None:
        """Of the label maps, for model.pt."""
        if not classes:
            return None
        middles = [facts["middle"] for facts in self._images if facts["middle"]]
        if not middles:
            raise MedsynthError("all label maps are empty: check the segmentations of the datalist")
        return {
            "classes": {str(code): name for code, name in classes.items()},
            "middle": np.mean(middles, axis=0).tolist(),
        }


class SliceDataset(PreparedSlices):
    """Normalized slices of a set of images, each image prepared once into a cache.

    Items have the view `image`, the slice between its neighbours, and `covariates` (K,) float32, NaN where unknown.
    With `segmentation_classes`, also the view `segmentation` (1, H, W), indices of the classes, 0 for the background.

    Args:
        entries: {"image": path, "subject": str, "label": str or None, "frame": int or None}, as a datalist has them;
            of pictures with "position" where it is known, and with "covariates" where some are.
        preprocessing: how images become slices.
        classes: names of the labels, in the order of their indices.
        cache_dir: where prepared slices are stored; None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that prepare; 0: this one.
        max_bad_fraction: part of the images that may be unusable; they are named and left out.
        covariates: names of the K that items have, in their order; None: none.
        segmentation_classes: names by code, of the label maps that come with the slices; none: none do.

    Attributes:
        covariates: (N, K), those of each slice's image.
        images: all slices as one array (N, H, W) on disk.
        bounds: (N, 2), the intensities that became -1 and 1.
        preprocessing: with the region, the spacing and the window that were chosen, where they had to be.
        space: what pixels and values stand for, for images made like these.
        segmentation: for model.pt, the names of the classes by code, and the pixel (row, column) in the middle of what
            label maps show, on average; None where no label maps come with the slices.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        preprocessing: Preprocessing,
        classes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        max_bad_fraction: float = 0.1,
        covariates: Sequence[str] | None = None,
        segmentation_classes: Mapping[int, str] | None = None,
    ) -> None:
        if not entries:
            raise MedsynthError("there are no images to take slices from: name some in the datalist")
        names = covariate_names(covariates, entries)
        preprocessing = choose_range(first_images(entries), preprocessing, cache_dir, num_workers)
        preprocessing = choose_region(entries, preprocessing, cache_dir, num_workers)
        self.preprocessing = fit_spacing(entries, preprocessing, cache_dir, num_workers)
        store, images = Cache(cache_dir), [Source.of(entry) for entry in entries]
        if segmentation_classes:
            images = with_segmentations(images, entries)
        records, self._lease = prepare_all(images, self.preprocessing, store, num_workers, segmentation_classes)
        super().__init__(entries, records, store, classes, max_bad_fraction)
        planes = np.array([len(facts.get("planes", [0])) for facts in self._images])
        starts = np.cumsum([0, *(planes * (2 if segmentation_classes else 1))])
        channels = [channel_slices(facts, preprocessing.neighbours) for facts in self._images]
        counts = [len(rows) for rows in channels]
        self.views = {"image": np.concatenate(channels) + np.repeat(starts[:-1], counts)[:, None]}
        if segmentation_classes:  # an image's label map lies behind its slices
            self.views["segmentation"] = (self.views["image"] + np.repeat(planes, counts)[:, None])[
                :, preprocessing.neighbours, None
            ]
        self.segmentation = self._described(segmentation_classes)
        self.images = self.stored_slices.of(self.views["image"][:, preprocessing.neighbours])
        self.bounds = np.repeat(np.array([facts["bounds"] for facts in self._images]), counts, axis=0)
        self.covariates = np.repeat([known_covariates(entry, names) for entry in self.entries], counts, axis=0)
        shared = (float(self.bounds[0, 0]), float(self.bounds[0, 1]))
        bounds = shared if (self.bounds == shared).all() else None
        modality, plane = preprocessing.modality, preprocessing.plane
        self.space = SliceSpace(modality, self.spacing_mm, self.slice_mm, bounds, plane)

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`label`, `position`, `index` (N,) and `covariates` (N, K) of these slices."""
        return super().facts(indices) | {"covariates": torch.from_numpy(self.covariates[indices])}

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """(N, H, W) slices of these indices, as they are stored (float16, or float32 for pictures)."""
        return torch.from_numpy(self.images[indices])


def with_segmentations(images: Sequence[Source], entries: Sequence[dict[str, Any]]) -> list[Source]:
    """Images with the label maps of their entries, which all must have one."""
    if without := [_name(entry) for entry in entries if not entry.get("segmentation")]:
        raise MedsynthError(
            f"{len(without)} of {len(entries)} images have no segmentation, the first is {without[0]}: list one for "
            "each (tools/make_datalist.py --segmentation), or set use_segmentation to false"
        )
    return [
        replace(image, segmentation=str(entry["segmentation"])) for image, entry in zip(images, entries, strict=True)
    ]


def _positions(entry: dict[str, Any], facts: dict[str, Any]) -> np.ndarray:
    """Of an image's slices; a picture has that of its entry, NaN if there is none."""
    found = facts["positions"] if facts["positions"] != [None] else [entry.get("position")]
    return np.array(found, dtype=np.float32)


def covariate_names(names: Sequence[str] | None, entries: Sequence[dict[str, Any]]) -> list[str]:
    """The names, checked: some image has each."""
    if isinstance(names, str):
        raise MedsynthError(f"covariates is {names!r}: give null or a list of names, such as \"['{names}']\"")
    names, known = list(names or ()), covariates_of(entries)
    if unknown := [name for name in names if name not in known]:
        raise MedsynthError(
            f"covariates names {', '.join(map(str, unknown))}, and the images of the datalist have "
            f"{'the covariates ' + ', '.join(known) if known else 'none'}: name some of them, leave covariates null, "
            "or make the datalist again with --participants and --covariates (tools/make_datalist.py)"
        )
    return names


def known_covariates(entry: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Of an image, (K,), NaN where unknown."""
    known = entry.get("covariates") or {}
    return np.array([known.get(name, np.nan) for name in names], dtype=np.float32)


def _check_bad(entries: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], max_bad_fraction: float) -> None:
    """Name the images that are left out; stop if they are too many."""
    names = [_name(entry) for entry in entries]
    bad = [(name, facts["error"]) for name, facts in zip(names, results, strict=True) if "error" in facts]
    for path, reason in bad:
        log.warning("left out: %s %s", path, reason)
    if len(bad) == len(entries) or len(bad) > max_bad_fraction * len(entries):
        raise MedsynthError(
            f"{len(bad)} of {len(entries)} images cannot be used, and at most {max_bad_fraction:.0%} may be left out "
            f"(max_bad_fraction): {bad[0][0]} {bad[0][1]}"
        )
    if bad:
        log.warning("%d of %d images left out", len(bad), len(entries))


def _name(entry: dict[str, Any]) -> str:
    """Path of its first image, and the subject where a mask may be wrong too."""
    path = next(entry[key] for key in IMAGE_KEYS if entry.get(key))
    return f"{path} (subject {entry['subject']})" if entry.get("mask") else path


def _common_spacing(spacings: np.ndarray) -> tuple[float, float, float]:
    """The median of (N, 3) spacings, and a warning where the in-plane ones are not all alike."""
    low, high = spacings[:, :2].min(), spacings[:, :2].max()
    if (np.ptp(spacings[:, :2], axis=0) > SAME_SPACING * spacings[:, :2].min(axis=0)).any():
        log.warning(
            "pixels are %.3g to %.3g mm wide: set spacing_mm, or the same anatomy comes in several sizes", low, high
        )
    rows, columns, slices = np.median(spacings, axis=0)
    return float(rows), float(columns), float(slices)
