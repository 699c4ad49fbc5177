"""Tell the head from the air around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medsynth.errors import MedsynthError

BRAIN_HEIGHT_MM = 150.0  # from the top of the scalp to below the cerebellum
GRID_MM = 4.0  # the in-plane grid on which the head is searched for
TISSUE_FRACTION = 0.1  # of the way from air to typical bright tissue: above noise, below cerebrospinal fluid
AIR_TO_BONE_HU = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Head:
    """Where the head lies in an upright volume.

    Args:
        top: index of its highest slice.
        centre_mm: middle of its bounding box in the brain's slices, from the volume's first row and column.
        shares: of each slice, the part of the field of view that the head covers.
        values: a sample of the voxels of its brain slices, air left out.
    """

    top: int
    centre_mm: tuple[float, float]
    shares: np.ndarray
    values: np.ndarray


def mri_threshold(values: np.ndarray) -> float:
    """A value between air (noisy or not) and the darkest tissue of a magnetic resonance image."""
    values = np.minimum(values, np.percentile(values, 99.5))
    air, bright = np.percentile(values, 1), np.median(values[values > threshold_otsu(values)])
    return float(air + TISSUE_FRACTION * (bright - air))


def ct_threshold(values: np.ndarray) -> float:
    """A value between air and soft tissue (between tissue and bone, where the air was set to 0) in Hounsfield units."""
    return float(threshold_otsu(np.clip(values, *AIR_TO_BONE_HU)))


def find_head(volume: np.ndarray, spacing_mm: tuple[float, float, float], threshold) -> Head:
    """The largest connected part of an upright volume (rows, columns, slices) above its threshold.

    Args:
        volume: voxels.
        spacing_mm: between its rows, columns and slices.
        threshold: function that tells it from a sample of the voxels, such as `mri_threshold`.
    """
    steps = [max(1, int(GRID_MM / size)) for size in spacing_mm[:2]]
    grid = volume[:: steps[0], :: steps[1]]
    if grid.min() == grid.max():
        raise MedsynthError(f"holds the same value, {grid.flat[0]:g}, everywhere: export it again")
    labels, _ = ndimage.label(grid > threshold(grid.ravel()))
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size:
        raise MedsynthError("shows nothing that stands out from its background: check that it is a scan of a head")
    head = labels == 1 + sizes.argmax()
    top = int(np.flatnonzero(head.any((0, 1)))[-1])
    brain = slice(max(0, top - int(BRAIN_HEIGHT_MM / spacing_mm[2])), top + 1)
    centre = [_middle(head[..., brain].any((1 - axis, 2))) * steps[axis] * spacing_mm[axis] for axis in (0, 1)]
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(head, 2, 0)])
    return Head(top, (centre[0], centre[1]), filled.mean((1, 2)), grid[..., brain][head[..., brain]])


def _middle(present: np.ndarray) -> float:
    """Middle of the true stretch of a line, in steps from its start."""
    where = np.flatnonzero(present)
    return (where[0] + where[-1] + 1) / 2
