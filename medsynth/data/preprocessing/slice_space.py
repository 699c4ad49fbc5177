"""What the pixels and values of slices, and of volumes, stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from nibabel.affines import from_matvec
from nibabel.orientations import axcodes2ornt

from medsynth.data.preprocessing.pipelines import PLANES

INTEGERS = {(0.0, 255.0): np.uint8, (0.0, 65535.0): np.uint16}  # of pictures, by what -1 and 1 stand for


class Intensities:
    """What values in [-1, 1] of a `modality` with these `bounds` stand for."""

    modality: str
    bounds: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model.pt."""
        return asdict(self)

    @property
    def units(self) -> str:
        """Of the values that `to_units` returns."""
        if self.bounds is None:
            return "arbitrary: 0 and 1 are the lower and upper intensity bounds of a training image"
        return {"ct": "HU", "image": "grey value"}.get(self.modality, "arbitrary: as in the input images")

    def to_units(self, slices: np.ndarray, clip: bool = True) -> np.ndarray:
        """[-1, 1] back to intensities: int16 HU, the integers of a picture, or float32; [0, 1] without bounds.

        Args:
            clip: to [-1, 1]; if false, values beyond are retained as far as the integers allow.
        """
        low, high = self.bounds or (0.0, 1.0)
        slices = np.clip(slices, -1, 1) if clip else slices
        values = low + (slices.astype(np.float64) + 1) * ((high - low) / 2)
        kind = np.int16 if self.modality == "ct" else INTEGERS.get((low, high)) if self.modality == "image" else None
        if kind is None or self.bounds is None:
            return values.astype(np.float32)
        limits = np.iinfo(kind)
        return np.clip(np.round(values), limits.min, limits.max).astype(kind)


@dataclass(frozen=True)
class SliceSpace(Intensities):
    """What the pixels of slices and their values in [-1, 1] stand for.

    Args:
        modality: `mri`, `ct` or `image`.
        spacing_mm: between rows and columns.
        slice_mm: between slices.
        bounds: the intensities of -1 and 1; None where each training image had its own, as with percentiles.
        plane: `axial`, `coronal` or `sagittal`.
    """

    modality: str
    spacing_mm: tuple[float, float]
    slice_mm: float
    bounds: tuple[float, float] | None
    plane: str = "axial"

    def affine(self, shape: Sequence[int]) -> np.ndarray:
        """World coordinates of one upright slice of these rows and columns, centred on 0; axial rows run backwards."""
        affine, steps = np.zeros((4, 4)), (*self.spacing_mm, self.slice_mm)
        for axis, (world, sign) in enumerate(axcodes2ornt(PLANES[self.plane])):
            affine[int(world), axis] = sign * steps[axis]
        affine[:, 3] = -affine @ [(shape[0] - 1) / 2, (shape[1] - 1) / 2, 0, 0]
        affine[3, 3] = 1
        return affine


@dataclass(frozen=True)
class VolumeSpace(Intensities):
    """What the voxels of volumes and their values in [-1, 1] stand for.

    Args:
        modality: `mri` or `ct`.
        spacing_mm: from left to right, from back to front and upwards.
        bounds: as `SliceSpace` has them.
    """

    modality: str
    spacing_mm: tuple[float, float, float]
    bounds: tuple[float, float] | None

    def affine(self, shape: Sequence[int]) -> np.ndarray:
        """World coordinates (RAS) of a volume of this shape, centred on 0."""
        return from_matvec(np.diag(self.spacing_mm), -np.multiply(self.spacing_mm, np.subtract(shape, 1)) / 2)
