"""One spacing for a whole set, so that every head fits into the image and none is smaller than necessary."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose

from medsynth.data.io.header import Header
from medsynth.data.io.sources import Source, read_header
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.foreground import axis_of
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing, locate
from medsynth.data.preprocessing.preparation import Preparation, Result, identity, reason, recipe
from medsynth.errors import MedsynthError

IMAGE_KEYS = ("image", "source", "target")  # of a datalist's entry
MOST_HEAD_MM = 270.0  # no head is longer: a larger one has a wrong spacing or shows more than a head
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
    """Choose one spacing for a whole set whose heads don't all fit into the image as they are.

    Where all fields of view fit, the headers suffice; otherwise each volume is measured once, and the result is cached.
    Volumes that cannot be read are skipped, and reported when slices are taken; so are implausibly large heads.

    Args:
        entries: of a datalist, single images or pairs.
        preprocessing: returned unchanged if it has a spacing or `keep_pixels`.
        cache_dir: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that measure the volumes; 0: this one.
    """
    if preprocessing.spacing_mm is not None or preprocessing.modality == "image" or preprocessing.keep_pixels:
        return preprocessing
    images = [Source.of(entry, next(key for key in IMAGE_KEYS if entry.get(key))) for entry in entries]
    fields = {image: field for image in images if (field := _field(image, preprocessing.plane))}
    size = preprocessing.image_size
    as_it_is = preprocessing.plane == "axial" or all(np.ptp(mm) <= SAME_SPACING * mm.min() for _, mm in fields.values())
    if as_it_is and all((pixels <= size).all() for pixels, _ in fields.values()):
        return preprocessing

    heads = _heads(list(fields), preprocessing, cache_dir, num_workers)
    usable = {image: width for image, width in heads.items() if width.max() <= MOST_HEAD_MM}
    if large := heads.keys() - usable.keys():
        log.warning(
            "%d heads seem more than %g mm wide: check the spacing of %s",
            len(large),
            MOST_HEAD_MM,
            min(image.path for image in large),
        )
    spacings = np.array([fields[image][1] for image in usable or fields])
    widths = np.array([np.minimum(usable.get(image, np.inf), np.prod(fields[image], 0)) for image in usable or fields])
    if as_it_is and (widths <= size * spacings).all():
        return preprocessing
    spacing = max(math.ceil(widths.max() / size / STEP_MM - 1e-3) * STEP_MM, float(spacings.min()))
    log.info(
        "heads are up to %.0f mm wide: resampled to %.4g mm, so that each fits into %d pixels",
        widths.max(),
        spacing,
        size,
    )
    return replace(preprocessing, spacing_mm=(spacing, spacing))


def fitted_preprocessing(
    entries: Sequence[dict[str, Any]], cache_dir: str | Path | None = None, num_workers: int = 0, **settings: Any
) -> Preprocessing:
    """`Preprocessing` of these settings, with the spacing that `fit_spacing` chooses; the log says what is scaled."""
    log_scaled_pictures(entries, settings["modality"], settings["image_size"])
    return fit_spacing(entries, Preprocessing(**settings), cache_dir, num_workers)


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


def measure(source: Source, locator: Compose) -> Result:
    """The widths of a head's box along `foreground.AXES`, in mm, or what is wrong with the image."""
    try:
        head = locator({"source": source})["head"]
    except Exception as error:
        return None, {"error": reason(error)}
    return None, {"widths_mm": (np.ptp(head.box, axis=1) * head.spacing_mm).tolist()}


def header_or_none(source: Source | str) -> Header | None:
    """Size and spacing, or None if the image cannot be read: its preparation will say why."""
    try:
        return read_header(source)
    except MedsynthError:
        return None


def in_plane(values: Sequence[float], plane: str) -> np.ndarray:
    """Of values along `foreground.AXES`, those along the rows and the columns of a plane."""
    return np.array([values[axis_of(direction)[0]] for direction in PLANES[plane][:2]])


def _field(source: Source, plane: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns of a volume's slices, and the mm between them."""
    header = header_or_none(source)
    return None if header is None else (in_plane(header.shape, plane), in_plane(header.spacing_mm, plane))


def _heads(
    images: Sequence[Source], preprocessing: Preprocessing, cache_dir: str | Path | None, num_workers: int
) -> dict[Source, np.ndarray]:
    """How wide the head in each image is along rows and columns, in mm."""
    how = Preprocessing(preprocessing.modality, None, None, 1)
    one = partial(measure, locator=Compose(locate(how)))
    records, _ = Preparation(images, 1, identity, ["head", recipe(how)], one, Cache(cache_dir)).all(
        num_workers, "finding heads"
    )
    facts = {image: record["images"][0] for image, record in zip(images, records, strict=True)}
    return {
        image: in_plane(found["widths_mm"], preprocessing.plane)
        for image, found in facts.items()
        if "error" not in found
    }
