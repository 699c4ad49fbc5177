"""Sets of volumes on one grid, and sets of slices through them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.texture import FOREGROUND

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # and the axis along which its slices follow each other
SLICES = 16  # of a volume in each plane
WITHIN = 0.05  # of the largest section of the mean patient: slices with less are beyond the patient


class VolumeSet:
    """Volumes, and the subject and class of each.

    Args:
        volumes: (N, X, Y, Z) in [0, 1], from left to right, from back to front and upwards.
        subjects, labels: (N,), as an `ImageSet` has them.
        name: what messages call it.

    Attributes:
        flat: the volumes as images (N, X * Y, Z), for measures that see a volume as a row of numbers.
        size: X, Y, Z.

    Raises:
        MedsynthError: volumes that cannot be measured.
    """

    def __init__(
        self,
        volumes: ArrayLike,
        subjects: Sequence[str] | NDArray | None = None,
        labels: Sequence[str | None] | NDArray | None = None,
        name: str = "volumes",
    ) -> None:
        shape = np.shape(volumes)
        if len(shape) != 4:
            raise MedsynthError(f"{name}: shape {shape}, needs (volumes, X, Y, Z): give volumes of one grid")
        self.size = shape[1:]
        self.flat = ImageSet(np.reshape(volumes, (shape[0], -1, shape[3])), subjects, labels, name=name)

    @classmethod
    def of_flat(cls, flat: ImageSet, size: Sequence[int]) -> VolumeSet:
        """The volumes whose `flat` is this one."""
        made = cls.__new__(cls)
        made.size, made.flat = tuple(size), flat
        return made

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def volumes(self) -> NDArray[np.float32]:
        """(N, X, Y, Z)."""
        return self.flat.images.reshape(len(self), *self.size)

    @property
    def subjects(self) -> NDArray:
        """(N,)."""
        return self.flat.subjects

    def take(self, indices: NDArray[np.int64]) -> VolumeSet:
        """The volumes at `indices`, with what is known of them."""
        return self.of_flat(self.flat.take(indices), self.size)

    def slices(self, plane: str, where: NDArray[np.int64]) -> ImageSet:
        """Slices of a plane at these indices along its axis, volume after volume."""
        images = np.moveaxis(self.volumes, 1 + PLANES[plane], 1)[:, where]
        columns = (np.repeat(column, len(where)) for column in (self.flat.subjects, self.flat.labels))
        return ImageSet(images.reshape(-1, *images.shape[2:]), *columns, name=self.flat.name)


def through_patient(volumes: VolumeSet, plane: str) -> NDArray[np.int64]:
    """Indices of at most `SLICES` slices of a plane, evenly spread through the mean patient of a set."""
    mean = np.moveaxis(volumes.volumes.mean(0), PLANES[plane], 0)
    sections = (mean > FOREGROUND).mean((1, 2))
    inside = np.flatnonzero(sections > WITHIN * sections.max())
    first, last = (inside[0], inside[-1]) if len(inside) else (0, len(mean) - 1)
    return np.unique(np.linspace(first, last, SLICES).round().astype(np.int64))
