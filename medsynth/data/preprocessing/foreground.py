"""Separate the head from the air around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medsynth.errors import MedsynthError

AXES = "PLS"  # of the volume that the head is searched in: front to back, right to left, upwards
OPPOSITES = {"A": "P", "R": "L", "I": "S"}
BRAIN_HEIGHT_MM = 150.0  # from the top of the scalp to below the cerebellum
GRID_MM = 4.0  # the in-plane grid on which the head is searched for
TISSUE_FRACTION = 0.1  # of the way from air to typical bright tissue: above noise, below cerebrospinal fluid
LOOSE = 5e-4  # part of the head that may lie beyond a side of its box: specks that hang on to it
AIR_TO_BONE_HU = (-1000.0, 1000.0)
SAMPLES = 50_000  # voxels from which the threshold is computed


@dataclass(frozen=True)
class Head:
    """Where the head lies in a volume (rows, columns, slices) with the axes `AXES`.

    Args:
        shape, spacing_mm: of the volume.
        box: (3, 2), where the brain's part of the head begins and ends along each axis, in voxels from the first edge.
        mask: the head, on a grid that is coarser in the plane.
        step: voxels from one row and column of that grid to the next.
        values: a sample of the voxels of the brain's part, air left out.
        air: typical intensity outside the head.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    box: np.ndarray
    mask: np.ndarray
    step: tuple[int, int, int]
    values: np.ndarray
    air: float

    def span(self, direction: str) -> tuple[float, float]:
        """Where its box begins and ends, in voxels in that direction (one of A, P, L, R, I, S)."""
        axis, flipped = axis_of(direction)
        begin, end = self.box[axis]
        return (self.shape[axis] - end, self.shape[axis] - begin) if flipped else (begin, end)

    def reach(self, direction: str) -> tuple[float, float]:
        """The same of all that is connected with the head, such as neck and shoulders."""
        axis, _ = axis_of(direction)
        edges = np.minimum(np.multiply(_ends(self.mask, axis), self.step[axis]), self.shape[axis])
        return replace(self, box=np.tile(edges, (3, 1))).span(direction)

    def pixel_mm(self, direction: str) -> float:
        """From voxel to voxel in that direction."""
        return self.spacing_mm[axis_of(direction)[0]]

    def shares(self, direction: str) -> np.ndarray:
        """Of each slice along that direction, the part of the field of view that the head's outline encloses."""
        axis, flipped = axis_of(direction)
        others = [other for other in range(3) if other != axis]
        inside = _between(self.mask, others[0]) & _between(self.mask, others[1])
        cells = np.arange(self.shape[axis]) // self.step[axis]
        shares = inside.mean(tuple(others))[np.minimum(cells, self.mask.shape[axis] - 1)]
        return shares[::-1] if flipped else shares

    def positions(self, direction: str) -> np.ndarray:
        """Of each slice along that direction: 0 and 1 at the ends of the brain's part of the head.

        Up or down, these are `BRAIN_HEIGHT_MM` apart, even where the volume ends before.
        """
        axis, flipped = axis_of(direction)
        begin, end = self.box[axis]
        length = BRAIN_HEIGHT_MM / self.spacing_mm[axis] if axis == AXES.index("S") else max(1, end - 1 - begin)
        positions = 1 - (end - 1 - np.arange(self.shape[axis])) / length
        return 1 - positions[::-1] if flipped else positions


def mri_threshold(values: np.ndarray) -> float:
    """A value between air (noisy or not) and the darkest tissue of a magnetic resonance image."""
    air, most = np.percentile(values, (1, 99.5))
    values = np.minimum(values, most)
    bright = np.median(values[values > threshold_otsu(values)])
    return float(air + TISSUE_FRACTION * (bright - air))


def ct_threshold(values: np.ndarray) -> float:
    """A value between air and soft tissue (between tissue and bone, where the air was set to 0) in Hounsfield units."""
    return float(threshold_otsu(np.clip(values, *AIR_TO_BONE_HU)))


def find_head(volume: np.ndarray, spacing_mm: tuple[float, float, float], threshold: Callable) -> Head:
    """The largest connected part of a volume with the axes `AXES` above its threshold.

    Args:
        volume: voxels.
        spacing_mm: between its rows, columns and slices.
        threshold: function that computes it from a sample of the voxels, such as `mri_threshold`.
    """
    step = (*(max(1, int(GRID_MM / size)) for size in spacing_mm[:2]), 1)
    first = [min(step[axis], volume.shape[axis]) // 2 for axis in (0, 1)]
    grid = np.ascontiguousarray(volume[first[0] :: step[0], first[1] :: step[1]])
    if grid.min() == grid.max():
        raise MedsynthError(f"holds the same value, {grid.flat[0]:g}, everywhere: export it again")
    labels, _ = ndimage.label(grid > threshold(grid.ravel()[:: 1 + grid.size // SAMPLES]))
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size:
        raise MedsynthError("shows nothing that stands out from its background: check that it is a scan of a head")
    mask = labels == 1 + sizes.argmax()
    top = int(np.flatnonzero(mask.any((0, 1)))[-1])
    brain = slice(max(0, top - int(BRAIN_HEIGHT_MM / spacing_mm[2])), top + 1)
    part = mask[..., brain]
    box = np.array([*(np.multiply(_ends(part, axis), step[axis]) for axis in (0, 1)), (brain.start, brain.stop)])
    return Head(volume.shape, tuple(spacing_mm), box, mask, step, grid[..., brain][part], _air(volume, grid[~mask]))


def _air(volume: np.ndarray, outside: np.ndarray) -> float:
    """The lowest of the medians outside the head and at the edges of the volume."""
    edges = (volume[[0, -1]], volume[:, [0, -1]], outside[:: 1 + outside.size // SAMPLES])
    return float(min(np.median(part) for part in edges if part.size))


def _ends(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Where it begins and ends along an axis, but for a little on each side."""
    counts = mask.sum(tuple(other for other in range(3) if other != axis))
    below, loose = np.cumsum(counts), LOOSE * counts.sum()
    return int((below <= loose).sum()), int((below < below[-1] - loose).sum()) + 1


def _between(mask: np.ndarray, axis: int) -> np.ndarray:
    """What lies between two points of it along an axis."""
    count = mask.shape[axis]
    first, last = (
        np.expand_dims(line, axis) for line in (mask.argmax(axis), count - 1 - np.flip(mask, axis).argmax(axis))
    )
    indices = np.expand_dims(np.arange(count, dtype=first.dtype), [other for other in range(3) if other != axis])
    return (indices >= first) & (indices <= last) & mask.any(axis, keepdims=True)


def axis_of(direction: str) -> tuple[int, bool]:
    """Which of the volume's axes runs along it, and whether against it."""
    return AXES.index(OPPOSITES.get(direction, direction)), direction in OPPOSITES
