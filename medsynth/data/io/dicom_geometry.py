"""The slices of a DICOM series: whether they make up a volume, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsynth.data.io.header import MOST_PIXELS, check_size, pick_frame
from medsynth.data.io.itk import LPS_TO_RAS
from medsynth.errors import MedsynthError

SAME_DIRECTION = 1e-3  # between unit vectors
SAME_PLACE_MM = 0.01
UNEVEN = 0.05  # part of the distance between slices by which it may vary, or as many mm
TILT = 1e-3  # mm sideways a mm onwards: 0.06 degrees


@dataclass(frozen=True)
class Plane:
    """One slice: a file, or a frame of one. What the file does not tell is None.

    Args:
        path, frame: where it is.
        uid: its own.
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
    uid: str = ""
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
    def height_mm(self) -> float:
        """Of its first pixel along the normal."""
        return float(np.dot(self.position, self.normal))


def in_order(planes: Sequence[Plane]) -> tuple[Plane, ...]:
    """Along the normal of the first where all have positions, else (and at one place) by number."""
    planes = sorted(planes, key=lambda plane: (plane.number, str(plane.path), plane.frame))
    if all(plane.position and _is_orientation(plane.orientation) for plane in planes):
        normal = planes[0].normal
        planes.sort(key=lambda plane: round(float(np.dot(plane.position, normal)) / SAME_PLACE_MM))
    return tuple(planes)


def volume_of(planes: Sequence[Plane], frame: int | None = None) -> list[Plane]:
    """The slices that make up a volume, of those of a series in order.

    Raises:
        MedsynthError: what is wrong with them, in words that follow the name of the first one's file.
    """
    _check_alike(planes)
    rows, columns = planes[0].shape
    check_size((rows, columns, len(planes)))
    places = _places(planes)
    counts = {len(place) for place in places}
    if len(counts) > 1 or len({plane.uid for plane in planes}) < len(planes):
        first, second = next(place[:2] for place in places if len(place) > 1)
        raise MedsynthError(
            f"has duplicate slices in its series of {len(planes)}: {first} and {second} lie at the same place; keep one"
        )
    picked = pick_frame(counts.pop(), frame, (columns, rows, len(places), len(places[0])))
    chosen = [place[picked or 0] for place in places]
    _check_steps(chosen)
    return chosen


def shape_of(planes: Sequence[Plane]) -> tuple[int, int, int]:
    """Columns, rows and slices: as the volume is stored."""
    rows, columns = planes[0].shape
    return columns, rows, len(planes)


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """(4, 4), voxels (column, row, slice) to right-anterior-superior mm; sheared if the gantry was tilted."""
    first, affine = planes[0], np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = _step(planes), first.position
    return LPS_TO_RAS @ affine


def straight(planes: Sequence[Plane]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the smallest grid without shear that holds all slices of a tilted gantry."""
    affine, shape = affine_of(planes), np.array(shape_of(planes))
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    upright = affine.copy()
    upright[:3, 2] = normal * (affine[:3, 2] @ normal)
    shear = np.linalg.solve(upright[:3, :3], affine[:3, 2] * (len(planes) - 1))[:2]  # in voxels, over the whole stack
    upright[:3, 3] += upright[:3, :2] @ np.minimum(shear, 0)
    shape[:2] += np.ceil(np.abs(shear)).astype(int)
    return tuple(shape.tolist()), upright


def tilt_degrees(planes: Sequence[Plane]) -> float:
    """By how much a gantry was tilted: the angle between the normal and the way from slice to slice; 0 if hardly."""
    step, normal = _step(planes), planes[0].normal
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    return float(np.degrees(np.arctan2(sideways, along))) if sideways > TILT * along else 0.0


def _check_alike(planes: Sequence[Plane]) -> None:
    """All in one orientation, of one size and one spacing."""
    first, count = planes[0], len(planes)
    if max(first.shape[0] * first.shape[1] for plane in planes) > MOST_PIXELS:
        raise MedsynthError(f"says it has {first.shape} pixels: its header is damaged")
    if without := [plane for plane in planes if not plane.position or not _is_orientation(plane.orientation)]:
        raise MedsynthError(
            f"is of a series in which {len(without)} of {count} images do not tell where in the patient they lie, such "
            f"as {without[0]}: is it a screenshot?"
        )
    if any(not plane.spacing or min(plane.spacing) <= 0 for plane in planes):
        raise MedsynthError("is of a series with images that have no pixel spacing, or zero: repair its headers")
    if len(shapes := {plane.shape for plane in planes}) > 1:
        raise MedsynthError(f"is of a series that mixes image sizes ({_listed(shapes)}): put each into its own folder")
    turned = [
        plane for plane in planes if np.abs(np.subtract(plane.orientation, first.orientation)).max() > SAME_DIRECTION
    ]
    if turned:
        raise MedsynthError(
            f"is of a series of {count} slices with mixed orientations: {len(turned)} lie otherwise than the first, "
            f"such as {turned[0]}; put each stack into its own folder"
        )
    if any(not np.allclose(plane.spacing, first.spacing, rtol=1e-3) for plane in planes):
        raise MedsynthError("is of a series that mixes pixel spacings: put the slices of each into their own folder")
    if len({plane.path for plane in planes}) == 1 and len({plane.rescale for plane in planes}) > 1:
        raise MedsynthError("has frames with rescale slopes of their own, which is not read: export single slices")


def _is_orientation(orientation: tuple[float, ...] | None) -> bool:
    """Whether these are two directions at a right angle."""
    if orientation is None:
        return False
    directions = np.reshape(orientation, (2, 3))
    return bool(np.allclose(directions @ directions.T, np.eye(2), atol=SAME_DIRECTION))


def _places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Slices in order, together where they lie at the same place."""
    places = [[planes[0]]]
    for plane in planes[1:]:
        if np.linalg.norm(np.subtract(plane.position, places[-1][0].position)) < SAME_PLACE_MM:
            places[-1].append(plane)
        else:
            places.append([plane])
    return places


def _check_steps(planes: Sequence[Plane]) -> None:
    """The same way from each slice to the next."""
    if len(planes) < 3:
        return
    heights = np.array([plane.height_mm for plane in planes])
    steps = np.diff(heights)
    least, where = steps.min(), int(steps.argmax())
    counts = np.round(steps / max(least, SAME_PLACE_MM))
    between = f"between {planes[where]} and {planes[where + 1]}"
    if counts.max() > 1 and (np.abs(steps / least - counts) <= 0.05 * counts).all():
        raise MedsynthError(
            f"has {int(counts.sum()) - len(steps)} missing slices in {int((counts > 1).sum())} gaps of its series of "
            f"{len(planes)}, the largest {between}: export the series again"
        )
    positions = np.array([plane.position for plane in planes])
    even = positions[0] + np.arange(len(planes))[:, None] * _step(planes)
    if np.linalg.norm(positions - even, axis=1).max() > UNEVEN * max(1.0, float(np.median(steps))):
        raise MedsynthError(
            f"is of a series with varying spacing: its slices lie {least:.3g} to {steps.max():.3g} mm apart, the most "
            f"{between}: some are missing or of another scan; export the series again"
        )


def _step(planes: Sequence[Plane]) -> np.ndarray:
    """From a slice to the next, in mm (left, posterior, superior)."""
    if len(planes) == 1:
        return planes[0].normal * (planes[0].thickness or (1.0,))[0]
    return np.subtract(planes[-1].position, planes[0].position) / (len(planes) - 1)


def _listed(shapes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
