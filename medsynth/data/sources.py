"""Find images in folders and read what their headers say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from medsynth.errors import MedsynthError

VOLUME_ENDINGS = (".nii", ".nii.gz")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
AXES = "PLS"  # rows front to back, columns from the patient's right to left, slices upwards: as a radiologist sees them
PICTURE_BITS = {
    "1": 8,
    "L": 8,
    "LA": 8,
    "P": 8,
    "RGB": 8,
    "RGBA": 8,
    "CMYK": 8,
    "YCbCr": 8,
    "I;16": 16,
    "I;16B": 16,
    "I": 16,
}


@dataclass(frozen=True)
class Header:
    """Size and spacing of an image, before its voxels are read.

    Args:
        shape: rows, columns and slices, once the image is upright.
        spacing_mm: the same for the distances between voxel centres; 1 for pictures, which have none.
        bits: of a picture, 8 or 16; None for volumes and for pictures of real numbers.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    bits: int | None = None


def find_images(folder: str | os.PathLike) -> list[Path]:
    """All images below a folder (hidden ones left out), sorted by path; links to folders are followed once."""
    folder = Path(folder)
    if not folder.is_dir():
        raise MedsynthError(f"{folder} is not a folder: give the folder that holds the images")
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in files if not name.startswith(".") and is_image(name)]
    return sorted(found)


def is_image(path: str | os.PathLike) -> bool:
    """Whether the name ends like an image that can be read."""
    return str(path).lower().endswith(VOLUME_ENDINGS + PICTURE_ENDINGS)


def is_picture(path: str | os.PathLike) -> bool:
    """Whether the name ends like a 2D image."""
    return str(path).lower().endswith(PICTURE_ENDINGS)


def read_header(path: str | os.PathLike) -> Header:
    """Size and spacing, without reading the voxels.

    Raises:
        MedsynthError: why this is no image that can be used, in words that follow the file's name.
    """
    try:
        return _picture_header(path) if is_picture(path) else _volume_header(path)
    except MedsynthError:
        raise
    except Exception as error:  # on damaged bytes, the libraries raise whatever comes
        raise MedsynthError(unreadable(error)) from error


def unreadable(error: BaseException) -> str:
    """One line for an exception that a reader raised on a damaged file."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read: check its permissions"
    reason = re.sub(r"""(file |of )?(["']).*\2""", "", " ".join(str(error).split())).strip()[:120]
    return f"cannot be read, it seems truncated or damaged ({reason}): copy it again"


def _volume_header(path: str | os.PathLike) -> Header:
    image = nib.load(path)
    shape = image.shape
    if len(shape) > 3 and any(size > 1 for size in shape[3:]):
        raise MedsynthError(f"has {len(shape)} dimensions, {shape}, and 3 are needed: pick a frame and save it alone")
    if image.get_data_dtype().names:
        raise MedsynthError("holds colours instead of one value per voxel: use the scan that it was made from")
    if len(shape) < 2 or min(shape) < 1:
        raise MedsynthError(f"has the shape {shape}: a volume needs rows, columns and slices")
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.isfinite(image.affine).all() or (sizes < 1e-6).any() or abs(np.linalg.det(image.affine)) < 1e-12:
        raise MedsynthError("has an affine without a size for each voxel: repair its header")
    shape = (*shape, 1)[:3]
    labels = nib.aff2axcodes(image.affine)
    order = [next(i for i, label in enumerate(labels) if label in pair) for pair in ("AP", "LR", "IS")]
    return Header(tuple(int(shape[i]) for i in order), tuple(float(sizes[i]) for i in order))


def _picture_header(path: str | os.PathLike) -> Header:
    with Image.open(path) as image:
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise MedsynthError(f"has {pages} pages, and one is needed: save each page as a file")
        columns, rows = image.size
        return Header((rows, columns, 1), (1.0, 1.0, 1.0), PICTURE_BITS.get(image.mode))
