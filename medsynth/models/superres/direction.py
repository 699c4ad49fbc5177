"""What gets finer: rows and columns of slices, or what lies between thick slices; and how thick these are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsynth.data.datalist.datalist import Datalist
from medsynth.data.io import sources
from medsynth.data.io.header import Header
from medsynth.data.io.sources import Source, header_or_none
from medsynth.data.phantom import default
from medsynth.data.preprocessing.foreground import axis_of
from medsynth.data.preprocessing.pipelines import PLANES
from medsynth.data.preprocessing.spacing import in_plane
from medsynth.errors import MedsynthError, is_number
from medsynth.models.superres.degradation import LEAST_RATIO

DIRECTIONS = ("in_plane", "through_plane")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Direction:
    """What gets finer.

    Args:
        name: of `DIRECTIONS`.
        plane: of the slices.
        scale: how many times finer; through the plane, the distance between slices over the in-plane spacing.
        neighbours: slices on each side that the network sees too.
        fill: thickness of slices over the distance between them.
    """

    name: str
    plane: str
    scale: float
    neighbours: int
    fill: float = 1.0


def direction_of(
    direction: str,
    entries: Sequence[Mapping[str, Any]],
    modality: str,
    plane: str,
    spacing_mm: Sequence[float] | None,
    scale: int,
    neighbours: int,
    thickness: float | None,
    gap: float,
) -> Direction:
    """In the plane, what is given; through the plane, what the headers say.

    Args:
        direction: `in_plane` or `through_plane`.
        entries: of a datalist.
        modality: `image` has one plane only.
        plane, scale, neighbours: in the plane. Through the plane, slices are those of the coarsest axis of the scans,
            and of `plane` where no axis is coarser and `thickness` is given.
        spacing_mm: of the prepared slices; None: that of the scans.
        thickness: of slices in mm; None: the distance between them in the headers, less `gap`.
        gap: between slices in mm; below 0, they overlap.

    Raises:
        MedsynthError: voxels are the same on all sides and no thickness is given, or the scans' planes differ.
    """
    if direction not in DIRECTIONS:
        raise MedsynthError(f"direction is {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    if direction == "in_plane":
        return Direction(direction, plane, scale, neighbours)
    if modality == "image":
        raise MedsynthError("direction is through_plane, and pictures have one plane: give mri or ct, or in_plane")
    if thickness is not None and not (is_number(thickness) and thickness > 0):
        raise MedsynthError(f"thickness is {thickness!r}: give null, or mm above 0")
    if not is_number(gap):
        raise MedsynthError(f"gap is {gap!r}: give mm, below 0 where slices overlap")
    headers = [header for entry in entries if (header := header_or_none(Source.of(entry)))]
    if not headers:
        raise MedsynthError(f"none of the {len(entries)} scans can be read: check the datalist")
    found = _common_plane(headers, None if thickness is None else plane)
    pixels = [in_plane(header.spacing_mm, found).mean() for header in headers]
    pixel = float(np.median(pixels)) if spacing_mm is None else float(np.mean(spacing_mm))
    between = float(np.median([slice_mm(header, found) for header in headers]))
    distance = between if thickness is None else thickness + gap
    thick = distance - gap
    if thick <= 0 or distance <= 0:
        raise MedsynthError(f"gap is {gap:g} mm, and slices lie {distance:.3g} mm apart: check thickness and gap")
    if distance < LEAST_RATIO * pixel:
        raise MedsynthError(
            f"slices would lie {distance:.3g} mm apart, and pixels are {pixel:.3g} mm: {LEAST_RATIO} times that or "
            "more is needed: check thickness and gap"
        )
    log.info(
        "%s slices of %.3g mm every %.3g mm, to %.3g mm: %.3g times finer",
        found,
        thick,
        distance,
        pixel,
        distance / pixel,
    )
    return Direction(direction, found, distance / pixel, 0, thick / distance)


def _common_plane(headers: Sequence[Header], otherwise: str | None = None) -> str:
    """The plane of the slices of all scans, see `thick_plane`; `otherwise` is that of scans without one.

    Raises:
        MedsynthError: they lie in several, or none has one.
    """
    planes = Counter(thick_plane(header) for header in headers)
    if otherwise is not None:
        planes.pop(None, None)
    if len(planes) > 1:
        found = ", ".join(f"{count} {name or 'alike on all sides'}" for name, count in planes.most_common())
        raise MedsynthError(f"the slices of the scans lie in several planes ({found}): list those of one plane")
    (found,) = planes or (otherwise,)
    if found is None:
        raise MedsynthError(
            f"{_in_words(headers[0])}, so that there is nothing to gain between slices: list scans with thick slices, "
            "or give the thickness of those that the model is for, such as --thickness 5"
        )
    return found


def thick_plane(header: Header) -> str | None:
    """The plane of a scan's slices, across its coarsest axis; None where that is hardly coarser than the others."""
    plane = max(PLANES, key=lambda plane: slice_mm(header, plane))
    return plane if slice_mm(header, plane) >= LEAST_RATIO * in_plane(header.spacing_mm, plane).max() else None


def across(plane: str) -> tuple[str, bool]:
    """A plane of cuts across the slices of another, and whether these are its columns instead of its rows."""
    axis = axis_of(PLANES[plane][2])[0]
    cut = next(name for name in ("coronal", "axial") if name != plane)
    return cut, axis_of(PLANES[cut][1])[0] == axis


def slice_mm(header: Header, plane: str) -> float:
    """Distance between the slices of a plane."""
    return header.spacing_mm[axis_of(PLANES[plane][2])[0]]


def required_plane(source: Source) -> str:
    """That of a scan's thick slices.

    Raises:
        MedsynthError: in words that follow the file's name: voxels are alike on all sides.
    """
    header = sources.read_header(source)
    plane = thick_plane(header)
    if plane is None:
        raise MedsynthError(
            f"is not a scan of thick slices: {_in_words(header)}, and what a model through the plane adds lies between "
            "slices; give a scan whose slices are thicker, or a model in the plane"
        )
    return plane


def load_scans(path: str | None) -> Datalist:
    """A datalist, that of the phantom for None, or one scan alone, from which a network through the plane can learn.

    What is alone is also validated on: its figures are of slices that the network has seen.
    """
    if path is None or not (Path(path).is_dir() or (Path(path).is_file() and sources.is_image(path))):
        return default.load(path)
    images = sources.find_images(path) if Path(path).is_dir() else [Path(path)]
    if len(images) != 1:
        raise MedsynthError(f"datalist {path} holds {len(images)} images: make a datalist of them (make_datalist.py)")
    log.warning("ONE SCAN ALONE: %s. Validation shows slices that the network has learned from.", path)
    entry = {"image": str(images[0].resolve()), "subject": "one", "label": None}
    return Datalist(
        "one scan", {"training": [entry], "validation": [entry], "test": []}, {}, sources.digest(Source.of(entry))
    )


def _in_words(header: Header) -> str:
    return f"voxels are {' x '.join(f'{mm:.3g}' for mm in header.spacing_mm)} mm"
