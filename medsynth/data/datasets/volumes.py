"""Volumes in, normalized volumes on one grid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsynth.data.datasets.slices import PreparedSlices, covariate_names, known_covariates, with_segmentations
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.slice_space import VolumeSpace
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, prepare_volumes
from medsynth.errors import MedsynthError


class VolumeDataset(PreparedSlices):
    """Volumes of a set on one grid, each prepared once into a cache.

    Items have the view `image`, (1, X, Y, Z) as `prepare_volume` stores it: finer than the grid where the scan is, and
    larger by its margins; see `medsynth.data.preprocessing.volume_grid.plain`. With `segmentation_classes`, also the
    view `segmentation`, likewise, indices of the classes, 0 for the background.

    Args:
        entries, classes, cache_dir, num_workers, max_bad_fraction, covariates, segmentation_classes: as `SliceDataset`
            takes them.
        preprocessing: how images come to the grid.

    Attributes:
        covariates: (N, K).
        affines: (N, 4, 4), of the stored voxels.
        space: what voxels and values stand for, for volumes made like these.
        segmentation: as `SliceDataset` has it, with the voxel (x, y, z) of the grid in the middle of the label maps.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        preprocessing: VolumePreprocessing,
        classes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        max_bad_fraction: float = 0.1,
        covariates: Sequence[str] | None = None,
        segmentation_classes: Mapping[int, str] | None = None,
    ) -> None:
        if not entries:
            raise MedsynthError("there are no volumes: name some in the datalist")
        names = covariate_names(covariates, entries)
        store, images = Cache(cache_dir), [Source.of(entry) for entry in entries]
        if segmentation_classes:
            images = with_segmentations(images, entries)
        records, self._lease = prepare_volumes(images, preprocessing, store, num_workers, segmentation_classes)
        super().__init__(entries, records, store, classes, max_bad_fraction)
        self.preprocessing = preprocessing
        self.views = {"image": np.arange(len(self))[:, None]}
        if segmentation_classes:  # a volume's label map lies behind it
            self.views = {"image": 2 * self.views["image"], "segmentation": 2 * self.views["image"] + 1}
        self.segmentation = self._described(segmentation_classes)
        self.covariates = np.array([known_covariates(entry, names) for entry in self.entries])
        self.affines = np.array([facts["affine"] for facts in self._images])
        bounds = {tuple(facts["bounds"]) for facts in self._images}
        shared = tuple(map(float, bounds.pop())) if len(bounds) == 1 else None
        self.space = VolumeSpace(preprocessing.modality, preprocessing.spacing_mm, shared)

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`label`, `position`, which is unknown, `index` (N,) and `covariates` (N, K) of these volumes."""
        return super().facts(indices) | {"covariates": torch.from_numpy(self.covariates[indices])}
