"""Separate the patient from the air around: the head in its upper part, or the whole body that was imaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medsynth.errors import MedsynthError

AXES = "PLS"  # of the volume that the patient is searched in: front to back, right to left, upwards
OPPOSITES = {"A": "P", "R": "L", "I": "S"}
BRAIN_HEIGHT_MM = 150.0  # from the top of the scalp to below the cerebellum
GRID_MM = 4.0  # the in-plane grid on which the patient is searched for
TISSUE_FRACTION = 0.1  # of the way from air to typical bright tissue: above noise, below cerebrospinal fluid
LOOSE = 5e-4  # part of the head that may lie beyond a side of its box: specks that hang on to it
AIR_TO_BONE_HU = (-1000.0, 1000.0)
SAMPLES = 50_000  # voxels from which the threshold is computed
IN_PLANE = np.pad(ndimage.generate_binary_structure(2, 1)[..., None], ((0, 0), (0, 0), (1, 1)))  # no neighbours across

TISSUE_HU = -300.0  # skin and fat are above, lungs, foam and most of a table's plates below
LUNG_HU = -920.0  # mean of a section: of lungs above, of air and foam below
OPENING_MM = 5.0
LEAST_PART = 0.5  # of the largest part: the other of two legs, not a table

MOST_HEAD_MM = 270.0  # no head is longer or wider
WIDE_MM = 60.0
MOST_CUT = 0.25  # part of opposite sides of the field of view that lies in the patient
TOP_MM = 10.0


@dataclass(frozen=True)
class Patient:
    """Where the patient lies in a volume (rows, columns, slices) with the axes `AXES`.

    Args:
        shape, spacing_mm: of the volume.
        box: (3, 2), where the brain's part of a head, or the body, begins and ends along each axis, in voxels from the
            first edge.
        mask: the patient, on a grid that is coarser in the plane.
        step: voxels from one row and column of that grid to the next.
        values: a sample of the voxels in the box, what is outside the patient left out.
        air: typical intensity outside the patient.
        region: `head` or `body`.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    box: np.ndarray
    mask: np.ndarray
    step: tuple[int, int, int]
    values: np.ndarray
    air: float
    region: str = "head"

    def span(self, direction: str) -> tuple[float, float]:
        """Where its box begins and ends, in voxels in that direction (one of A, P, L, R, I, S)."""
        axis, flipped = axis_of(direction)
        begin, end = self.box[axis]
        return (self.shape[axis] - end, self.shape[axis] - begin) if flipped else (begin, end)

    def reach(self, direction: str) -> tuple[float, float]:
        """The same of all that is connected with a head, such as neck and shoulders."""
        axis, _ = axis_of(direction)
        edges = np.minimum(np.multiply(_ends(self.mask, axis), self.step[axis]), self.shape[axis])
        return replace(self, box=np.tile(edges, (3, 1))).span(direction)

    def whole_mask(self) -> np.ndarray:
        """The mask on the grid of the volume."""
        return finer(self.mask, self.step, self.shape)

    def pixel_mm(self, direction: str) -> float:
        """From voxel to voxel in that direction."""
        return self.spacing_mm[axis_of(direction)[0]]

    def shares(self, direction: str) -> np.ndarray:
        """Of each slice along that direction, the part that the patient's outline encloses.

        The part of the field of view for a head; of the box for a body, whose field of view may be much wider.
        """
        axis, flipped = axis_of(direction)
        others = [other for other in range(3) if other != axis]
        inside = _between(self.mask, others[0]) & _between(self.mask, others[1])
        if self.region == "body":
            inside = inside[tuple(slice(None) if a == axis else slice(*_extent(self.mask, a)) for a in range(3))]
        cells = np.arange(self.shape[axis]) // self.step[axis]
        shares = inside.mean(tuple(others))[np.minimum(cells, self.mask.shape[axis] - 1)]
        return shares[::-1] if flipped else shares

    def positions(self, direction: str) -> np.ndarray:
        """Of each slice along that direction: 0 and 1 at the ends of the brain's part of the head, or of the body.

        Up or down, those of a head are `BRAIN_HEIGHT_MM` apart, even where the volume ends before.
        """
        axis, flipped = axis_of(direction)
        begin, end = self.box[axis]
        fixed = self.region == "head" and axis == AXES.index("S")
        length = BRAIN_HEIGHT_MM / self.spacing_mm[axis] if fixed else max(1, end - 1 - begin)
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


def find_patient(
    volume: np.ndarray,
    spacing_mm: tuple[float, float, float],
    modality: str,
    region: str,
    given: np.ndarray | None = None,
) -> Patient:
    """The head or the body in a volume with the axes `AXES`.

    Args:
        volume: voxels.
        spacing_mm: between its rows, columns and slices.
        modality: `mri`, or `ct` in Hounsfield units.
        region: `head`, the largest connected part that is no air; or `body`, see `body_of`.
        given: (rows, columns, slices), true inside the patient, where that is known.
    """
    step = (*(max(1, int(GRID_MM / size)) for size in spacing_mm[:2]), 1)
    first = [min(step[axis], volume.shape[axis]) // 2 for axis in (0, 1)]
    grid = np.ascontiguousarray(volume[first[0] :: step[0], first[1] :: step[1]])
    if grid.min() == grid.max():
        raise MedsynthError(f"holds the same value, {grid.flat[0]:g}, everywhere: export it again")
    if given is not None:
        mask = np.ascontiguousarray(given[first[0] :: step[0], first[1] :: step[1]])
    elif region == "body":
        mask = body_of(grid, np.multiply(spacing_mm, step), modality)
    else:
        threshold = {"mri": mri_threshold, "ct": ct_threshold}[modality]
        mask = _largest(grid > threshold(grid.ravel()[:: 1 + grid.size // SAMPLES]))
    if not mask.any():
        raise MedsynthError(f"shows nothing that stands out from its background: check that it is a scan of a {region}")
    if region == "body":
        box = np.array([np.multiply(_extent(mask, axis), step[axis]) for axis in range(3)])
        outside = grid[~mask]
        air = float(np.median(outside) if outside.size else grid.min())
        return Patient(volume.shape, tuple(spacing_mm), box, mask, step, grid[mask], air, region)
    top = int(np.flatnonzero(mask.any((0, 1)))[-1])
    brain = slice(max(0, top - int(BRAIN_HEIGHT_MM / spacing_mm[2])), top + 1)
    part = mask[..., brain]
    box = np.array([*(np.multiply(_ends(part, axis), step[axis]) for axis in (0, 1)), (brain.start, brain.stop)])
    return Patient(volume.shape, tuple(spacing_mm), box, mask, step, grid[..., brain][part], _air(volume, grid[~mask]))


def body_of(grid: np.ndarray, spacing_mm: Sequence[float], modality: str) -> np.ndarray:
    """The patient's body, with the gas of lungs and bowel, without table, cushions and clothes.

    It is the largest connected part after an opening in the axial plane, which removes plates and covers; parts at
    least half as large, such as the other leg, count too. Lungs are filled before, for the chest wall may be thinner
    than the opening: in CT they are denser than air and than the foam inside a table.

    Args:
        grid: (rows, columns, slices) with the axes `AXES`.
        spacing_mm: of the grid.
        modality: as `find_patient` takes it.
    """
    threshold = TISSUE_HU if modality == "ct" else mri_threshold(grid.ravel()[:: 1 + grid.size // SAMPLES])
    tissue = grid > threshold
    pockets, count = ndimage.label(~tissue, IN_PLANE)
    inside = np.ones(count + 1, bool)
    inside[np.unique(np.concatenate([side.ravel() for axis in (0, 1) for side in pockets.take([0, -1], axis)]))] = False
    if modality == "ct":
        sizes = np.bincount(pockets.ravel(), minlength=count + 1)
        sums = np.bincount(pockets.ravel(), np.maximum(grid, AIR_TO_BONE_HU[0]).ravel(), minlength=count + 1)
        inside = sums > LUNG_HU * np.maximum(sizes, 1)
    inside[0] = False
    radii = [np.arange(-int(OPENING_MM / mm), int(OPENING_MM / mm) + 1) * mm for mm in spacing_mm[:2]]
    disk = (np.hypot(*np.meshgrid(*radii, indexing="ij")) <= OPENING_MM)[..., None]
    solid = ndimage.binary_erosion(tissue | inside[pockets], disk, border_value=1)
    body = _largest(ndimage.binary_dilation(solid, disk), LEAST_PART)
    return np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(body, 2, 0)], axis=-1)


def region_of(body: np.ndarray, spacing_mm: Sequence[float]) -> str:
    """Whether a scan shows a `head` or another part of the body, from the extent of what it shows.

    A body is wider than a head over more than `WIDE_MM` of its length (or a third of it), is cut off by opposite sides
    of the field of view, or is as large at the top of more than 150 mm as elsewhere: a head tapers.

    Args:
        body: from `body_of`.
        spacing_mm: of its grid.
    """
    begin, end = _extent(body, 2)
    sections = body[..., begin:end]
    widths = [(sections.any(1 - axis).sum(0)) * spacing_mm[axis] for axis in (0, 1)]
    length = (end - begin) * spacing_mm[2]
    wide = float((np.maximum(*widths) > MOST_HEAD_MM).sum() * spacing_mm[2])
    brain = sections[..., -max(1, int(BRAIN_HEIGHT_MM / spacing_mm[2])) :]
    cut = max(min(brain.take(side, axis).mean() for side in (0, -1)) for axis in (0, 1))
    areas = sections.sum((0, 1))
    top = areas[-max(1, int(TOP_MM / spacing_mm[2])) :].mean()
    tapers = length <= BRAIN_HEIGHT_MM or top < areas.max() / 2
    return "body" if wide > min(WIDE_MM, length / 3) or cut > MOST_CUT or not tapers else "head"


def finer(mask: np.ndarray, step: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A mask whose voxels are `step` times as long, on the grid of a volume of this shape."""
    for axis in range(3):
        mask = mask.repeat(step[axis], axis).take(range(shape[axis]), axis, mode="clip")
    return mask


def _largest(mask: np.ndarray, part: float = 1.0) -> np.ndarray:
    """The largest connected part, and those of at least this part of its size."""
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    if part == 1:
        return labels == 1 + sizes.argmax()
    return np.concatenate([[False], sizes >= part * sizes.max()])[labels]


def _air(volume: np.ndarray, outside: np.ndarray) -> float:
    """The lowest of the medians outside the head and at the edges of the volume."""
    edges = (volume[[0, -1]], volume[:, [0, -1]], outside[:: 1 + outside.size // SAMPLES])
    return float(min(np.median(part) for part in edges if part.size))


def _ends(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Where it begins and ends along an axis, but for a little on each side."""
    counts = mask.sum(tuple(other for other in range(3) if other != axis))
    below, loose = np.cumsum(counts), LOOSE * counts.sum()
    return int((below <= loose).sum()), int((below < below[-1] - loose).sum()) + 1


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Where it begins and ends along an axis."""
    there = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
    return int(there[0]), int(there[-1]) + 1


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
