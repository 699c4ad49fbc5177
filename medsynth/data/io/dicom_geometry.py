"""The slices of a DICOM series: whether they make up a volume, and where it lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medsynth.data.io.header import MOST_PIXELS, check_size, pick_frame
from medsynth.data.io.itk import LPS_TO_RAS
from medsynth.errors import MedsynthError

SAME_DIRECTION = 1e-3  # between unit vectors
SAME_POSITION_MM = 0.01
ROUNDED = (2, 3)  # decimals of direction cosines that are too few
EXACT = 1e-6  # by which unit vectors of more decimals are off
UNEVEN = 0.05  # part of the distance between slices by which it may vary, or as many mm
TILT = 1e-3  # mm sideways a mm onwards: 0.06 degrees


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one. What the file does not state is None.

    Args:
        path, frame: where it is.
        uid: its own, if it has one.
        number: InstanceNumber, or that of the frame.
        position: of its first pixel in patient coordinates (left, posterior, superior) in mm.
        orientation: directions of its rows (first three) and columns.
        spacing: between its rows and its columns, in mm.
        thickness: (1,) from slice to slice, in mm; counts where there is one slice only.
        shape: rows, columns.
        rescale: slope and intercept.
    """

    path: Path
    frame: int = 0
    uid: str | None = None
    number: int = 0
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, ...] | None = None
    thickness: tuple[float, ...] | None = None
    shape: tuple[int, int] = (0, 0)
    rescale: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return f"frame {self.frame} of {self.path.name}" if self.frame else self.path.name

    @property
    def normal(self) -> np.ndarray:
        """Unit vector onwards through the slices."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)

    @property
    def slice_position_mm(self) -> float:
        """Position of its first pixel along the normal."""
        return float(np.dot(self.position, self.normal))


def in_order(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Along the normal of the first where all have positions, else (and at equal positions) by number.

    Directions that were rounded to 2 or 3 decimals are unit vectors at a right angle again.
    """
    slices = sorted(slices, key=lambda slice_: (slice_.number, str(slice_.path), slice_.frame))
    slices = _unrounded(slices)
    if all(slice_.position and _is_orientation(slice_.orientation) for slice_ in slices):
        normal = slices[0].normal
        slices.sort(key=lambda slice_: round(float(np.dot(slice_.position, normal)) / SAME_POSITION_MM))
    return tuple(slices)


def volume_of(slices: Sequence[Slice], frame: int | None = None) -> list[Slice]:
    """The slices that make up a volume, of those of a series in order.

    Raises:
        MedsynthError: what is wrong with them, in words that follow the name of the first one's file.
    """
    _check_alike(slices)
    rows, columns = slices[0].shape
    check_size((rows, columns, len(slices)))
    groups = _grouped_by_position(slices)
    counts = {len(group) for group in groups}
    if len(counts) > 1 or _has_copies(groups):
        first, second = next(group[:2] for group in groups if len(group) > 1)
        raise MedsynthError(
            f"has duplicate slices in its series of {len(slices)}: {first} and {second} lie at the same position; "
            "keep one"
        )
    picked = pick_frame(counts.pop(), frame, (columns, rows, len(groups), len(groups[0])))
    chosen = [group[picked or 0] for group in groups]
    _check_steps(chosen)
    return chosen


def shape_of(slices: Sequence[Slice]) -> tuple[int, int, int]:
    """Columns, rows and slices: as the volume is stored."""
    rows, columns = slices[0].shape
    return columns, rows, len(slices)


def affine_of(slices: Sequence[Slice]) -> np.ndarray:
    """(4, 4), voxels (column, row, slice) to right-anterior-superior mm; sheared if the gantry was tilted."""
    first, affine = slices[0], np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = _step(slices), first.position
    return LPS_TO_RAS @ affine


def straight(slices: Sequence[Slice]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the smallest grid without shear that holds all slices of a tilted gantry."""
    affine, shape = affine_of(slices), np.array(shape_of(slices))
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    upright = affine.copy()
    upright[:3, 2] = normal * (affine[:3, 2] @ normal)
    shear = np.linalg.solve(upright[:3, :3], affine[:3, 2] * (len(slices) - 1))[:2]  # in voxels, over the whole stack
    upright[:3, 3] += upright[:3, :2] @ np.minimum(shear, 0)
    shape[:2] += np.ceil(np.abs(shear)).astype(int)
    return tuple(shape.tolist()), upright


def tilt_degrees(slices: Sequence[Slice]) -> float:
    """By how much a gantry was tilted: the angle between the normal and the way from slice to slice; 0 if hardly."""
    step, normal = _step(slices), slices[0].normal
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    return float(np.degrees(np.arctan2(sideways, along))) if sideways > TILT * along else 0.0


def _check_alike(slices: Sequence[Slice]) -> None:
    """All in one orientation, of one size and one spacing."""
    first, count = slices[0], len(slices)
    if max(first.shape[0] * first.shape[1] for slice_ in slices) > MOST_PIXELS:
        raise MedsynthError(f"declares {first.shape} pixels: its header is damaged")
    if without := [slice_ for slice_ in slices if not slice_.position or not _is_orientation(slice_.orientation)]:
        raise MedsynthError(
            f"is of a series in which {len(without)} of {count} images have no position in the patient, such "
            f"as {without[0]}: is it a screenshot?"
        )
    if any(not slice_.spacing or min(slice_.spacing) <= 0 for slice_ in slices):
        raise MedsynthError("is of a series with images whose pixel spacing is missing or zero: repair its headers")
    if len(shapes := {slice_.shape for slice_ in slices}) > 1:
        raise MedsynthError(f"is of a series that mixes image sizes ({_listed(shapes)}): put each into its own folder")
    turned = [
        slice_ for slice_ in slices if np.abs(np.subtract(slice_.orientation, first.orientation)).max() > SAME_DIRECTION
    ]
    if turned:
        raise MedsynthError(
            f"is of a series of {count} slices with mixed orientations: {len(turned)} lie differently from the first, "
            f"such as {turned[0]}; put each stack into its own folder"
        )
    if any(not np.allclose(slice_.spacing, first.spacing, rtol=1e-3) for slice_ in slices):
        raise MedsynthError("is of a series that mixes pixel spacings: put the slices of each into their own folder")
    if len({slice_.path for slice_ in slices}) == 1 and len({slice_.rescale for slice_ in slices}) > 1:
        raise MedsynthError("has frames with different rescale slopes, which are not supported: export single slices")


def _unrounded(slices: list[Slice]) -> list[Slice]:
    """The same, with unit vectors at a right angle where direction cosines were rounded."""
    rounding = {slice_.orientation: _rounding(slice_.orientation) for slice_ in slices}
    if not any(rounding.values()):
        return slices
    across = _across(slices, max(rounding.values())) if len(rounding) == 1 else None
    exact = {one: _orthonormal(one, across) if off else one for one, off in rounding.items()}
    return [replace(slice_, orientation=exact[slice_.orientation]) for slice_ in slices]


def _rounding(orientation: tuple[float, ...] | None) -> float:
    """By how much each direction cosine may be off; 0 if they were not rounded, or make no right angle even so."""
    for decimals in ROUNDED if orientation else ():
        off = 0.5 * 10.0**-decimals
        most = 2 * np.sqrt(3) * off * (1 + off)  # of the product of two unit vectors whose numbers are off
        if EXACT < _skew(orientation) <= most and np.allclose(orientation, np.round(orientation, decimals), 0, 1e-9):
            return off
    return 0.0


def _across(slices: Sequence[Slice], off: float) -> np.ndarray | None:
    """Unit vector from slice to slice where it is the normal but for the rounding: positions have more decimals.

    None where it is not, as after a tilted gantry, or is unknown.
    """
    if not all(slice_.position for slice_ in slices):
        return None
    positions, normal = np.array([slice_.position for slice_ in slices]), slices[0].normal
    order = np.argsort(positions @ normal)
    way = positions[order[-1]] - positions[order[0]]
    length = float(np.linalg.norm(way))
    return way / length if length and np.linalg.norm(way / length - normal) < np.sqrt(6) * off else None


def _orthonormal(orientation: tuple[float, ...], across: np.ndarray | None) -> tuple[float, ...]:
    """The nearest unit vectors at a right angle to each other and, if it is given, to the vector across them."""
    directions = np.reshape(orientation, (2, 3))
    if across is not None:
        directions = directions - np.outer(directions @ across, across)
    left, _, right = np.linalg.svd(directions, full_matrices=False)
    return tuple((left @ right).ravel().tolist())


def _is_orientation(orientation: tuple[float, ...] | None) -> bool:
    """Whether these are two directions at a right angle."""
    return orientation is not None and _skew(orientation) <= SAME_DIRECTION


def _skew(orientation: tuple[float, ...]) -> float:
    """By how much the products of two directions differ from those of unit vectors at a right angle."""
    directions = np.reshape(orientation, (2, 3))
    return float(np.abs(directions @ directions.T - np.eye(2)).max())


def _has_copies(groups: Sequence[Sequence[Slice]]) -> bool:
    """Whether slices at one position have one uid, unless it says nothing, as it is that of other positions too."""
    seen = Counter(uid for group in groups for uid in {slice_.uid for slice_ in group})
    owned = ([slice_.uid for slice_ in group if slice_.uid and seen[slice_.uid] == 1] for group in groups)
    return any(len(set(uids)) < len(uids) for uids in owned)


def _grouped_by_position(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices in order, grouped where they lie at the same position."""
    groups = [[slices[0]]]
    for slice_ in slices[1:]:
        if np.linalg.norm(np.subtract(slice_.position, groups[-1][0].position)) < SAME_POSITION_MM:
            groups[-1].append(slice_)
        else:
            groups.append([slice_])
    return groups


def _check_steps(slices: Sequence[Slice]) -> None:
    """The same way from each slice to the next."""
    if len(slices) < 3:
        return
    slice_positions = np.array([slice_.slice_position_mm for slice_ in slices])
    steps = np.diff(slice_positions)
    least, where = steps.min(), int(steps.argmax())
    counts = np.round(steps / max(least, SAME_POSITION_MM))
    between = f"between {slices[where]} and {slices[where + 1]}"
    if counts.max() > 1 and (np.abs(steps / least - counts) <= 0.05 * counts).all():
        raise MedsynthError(
            f"has {int(counts.sum()) - len(steps)} missing slices in {int((counts > 1).sum())} gaps of its series of "
            f"{len(slices)}, the largest {between}: export the series again"
        )
    positions = np.array([slice_.position for slice_ in slices])
    even = positions[0] + np.arange(len(slices))[:, None] * _step(slices)
    if np.linalg.norm(positions - even, axis=1).max() > UNEVEN * max(1.0, float(np.median(steps))):
        raise MedsynthError(
            f"is of a series with varying spacing: its slices lie {least:.3g} to {steps.max():.3g} mm apart, the most "
            f"{between}: some are missing or of another scan; export the series again"
        )


def _step(slices: Sequence[Slice]) -> np.ndarray:
    """From a slice to the next, in mm (left, posterior, superior)."""
    if len(slices) == 1:
        return slices[0].normal * (slices[0].thickness or (1.0,))[0]
    return np.subtract(slices[-1].position, slices[0].position) / (len(slices) - 1)


def _listed(shapes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
