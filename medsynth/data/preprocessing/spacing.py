"""One spacing for a whole set, so that every patient fits into the image and none is smaller than necessary."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medsynth.data.io.sources import Source, header_or_none
from medsynth.data.preprocessing.foreground import MOST_HEAD_MM, axis_of
from medsynth.data.preprocessing.picture_range import choose_range
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing
from medsynth.data.preprocessing.region import IMAGE_KEYS, choose_region, first_images, measure_all
from medsynth.errors import MedsynthError

NAMES = {"head": "heads", "body": "bodies"}
MOST_MM = {"head": MOST_HEAD_MM, "body": 700.0}  # a larger one has a wrong spacing, or shows more than a head
SAME_SPACING = 0.02  # relative difference up to which two spacings count as one
MOST_HEADERS = 64  # of pictures that are looked at
STEP_MM = 0.001  # spacings are rounded up to

log = logging.getLogger(__name__)


def fit_spacing(
    entries: Sequence[dict[str, Any]],
    preprocessing: Preprocessing,
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> Preprocessing:
    """Choose one spacing for a whole set whose patients don't all fit into the image as they are.

    Where all fields of view fit, the headers suffice; otherwise each volume is measured once, and the result is cached.
    Volumes that cannot be read are skipped, and reported when slices are taken; so are implausibly large patients.

    Args:
        entries: of a datalist, single images or pairs.
        preprocessing: returned unchanged if it has a spacing or `keep_pixels`.
        cache_dir: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that measure the volumes; 0: this one.
    """
    if preprocessing.spacing_mm is not None or preprocessing.modality == "image" or preprocessing.keep_pixels:
        return preprocessing
    fields = {image: field for image in first_images(entries) if (field := _field(image, preprocessing.plane))}
    size = preprocessing.image_size
    as_it_is = preprocessing.plane == "axial" or all(np.ptp(mm) <= SAME_SPACING * mm.min() for _, mm in fields.values())
    if as_it_is and all((pixels <= size).all() for pixels, _ in fields.values()):
        return preprocessing

    region, plane = preprocessing.region, preprocessing.plane
    found = measure_all(list(fields), preprocessing.modality, cache_dir, num_workers)
    patients = {image: in_plane(facts[region], plane) for image, facts in found.items()}
    usable = {image: width for image, width in patients.items() if width.max() <= MOST_MM[region]}
    if large := patients.keys() - usable.keys():
        log.warning(
            "%d %s seem more than %g mm wide: check the spacing of %s%s",
            len(large),
            NAMES[region],
            MOST_MM[region],
            min(image.path for image in large),
            ", or give region body if these are no heads" if region == "head" else "",
        )
    spacings = np.array([fields[image][1] for image in usable or fields])
    widths = np.array([np.minimum(usable.get(image, np.inf), np.prod(fields[image], 0)) for image in usable or fields])
    if as_it_is and (widths <= size * spacings).all():
        return preprocessing
    spacing = max(math.ceil(widths.max() / size / STEP_MM - 1e-3) * STEP_MM, float(spacings.min()))
    log.info(
        "%s are up to %.0f mm wide: resampled to %.4g mm, so that each fits into %d pixels",
        NAMES[region],
        widths.max(),
        spacing,
        size,
    )
    return replace(preprocessing, spacing_mm=(spacing, spacing))


def fitted_preprocessing(
    entries: Sequence[dict[str, Any]], cache_dir: str | Path | None = None, num_workers: int = 0, **settings: Any
) -> Preprocessing:
    """`Preprocessing` of these settings, with region, spacing and, of pictures, window where they are null.

    The log says what was chosen. See `choose_range`, `choose_region` and `fit_spacing`.
    """
    preprocessing = Preprocessing(**settings)
    if not preprocessing.keep_pixels:
        log_scaled_pictures(entries, preprocessing.modality, preprocessing.image_size)
    preprocessing = choose_range(first_images(entries), preprocessing, cache_dir, num_workers)
    preprocessing = choose_region(entries, preprocessing, cache_dir, num_workers)
    return fit_spacing(entries, preprocessing, cache_dir, num_workers)


def log_scaled_pictures(entries: Sequence[dict[str, Any]], modality: str, image_size: int) -> None:
    """Say so where pictures do not have the size of the network's images, as far as the first of them tell."""
    if modality != "image":
        return
    files = (entry[key] for entry in entries[:MOST_HEADERS] for key in IMAGE_KEYS if entry.get(key))
    sizes = {header.shape[:2] for file in files if (header := header_or_none(file))}
    if others := sizes - {(image_size, image_size)}:
        largest = max(others)
        log.info(
            "pictures such as those of %d x %d pixels are scaled to %d x %d: --image_size says to what",
            *(*largest, image_size, image_size),
        )


def slice_side(
    entries: Sequence[dict[str, Any]],
    plane: str,
    spacing_mm: Sequence[float] | None,
    scale: int,
    image_size: int | None,
) -> int:
    """Rows and columns of slices that keep their pixels: a multiple of `scale`.

    Args:
        entries: of a datalist.
        plane: of the slices.
        spacing_mm: that they are resampled to; None: unchanged.
        image_size: None: as large as the largest slice of the set, so that nothing is cut.
    """
    if image_size is not None:
        if isinstance(image_size, int) and image_size % scale:
            near = image_size // scale * scale
            raise MedsynthError(
                f"image_size {image_size} is not a multiple of scale {scale}: "
                f"give null, {near or scale} or {near + scale}"
            )
        return image_size
    fields = [field for entry in entries if (field := _field(Source.of(entry), plane))]
    sides = [pixels if spacing_mm is None else pixels * mm / spacing_mm for pixels, mm in fields]
    largest = math.ceil(max((side.max() for side in sides), default=scale) - 1e-3)
    return math.ceil(largest / scale) * scale


def in_plane(values: Sequence[float], plane: str) -> np.ndarray:
    """Of values along `foreground.AXES`, those along the rows and the columns of a plane."""
    return np.array([values[axis_of(direction)[0]] for direction in PLANES[plane][:2]])


def _field(source: Source, plane: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns of a volume's slices, and the mm between them."""
    header = header_or_none(source)
    return None if header is None else (in_plane(header.shape, plane), in_plane(header.spacing_mm, plane))
