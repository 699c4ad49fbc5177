"""NIfTI and Analyze files, read by nibabel."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.orientations import axcodes2ornt

from medsynth.data.io.header import (
    DEFLATE_RATIO,
    MOST_HEADER_BYTES,
    Header,
    check_packing,
    check_size,
    pick_frame,
    volume_header,
)
from medsynth.errors import MedsynthError

SAME_POSITION_MM = 0.1  # up to which qform and sform agree
ANALYZE_AXES = ("LAS", "LSA", "ASL", "LPS", "LIA", "AIL")
"""Where the axes of an Analyze volume point, by its header's `orient`: transverse, coronal, sagittal; and flipped."""
MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


def files(path: Path) -> list[Path]:
    """The file, or the pair of header and voxels."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return [path]
    endings = (".hdr", ".img") if path.suffix.islower() else (".HDR", ".IMG")
    pair = [path.with_suffix(ending) for ending in endings]
    for file in pair:
        if not file.is_file():
            raise MedsynthError(f"lacks its other file, {file.name}: put the .hdr and the .img in one folder")
    return [*pair, *(mat for mat in [path.with_suffix(".mat")] if mat.is_file())]


def read_header(path: Path, frame: int | None = None) -> Header:
    """Size and spacing; the voxels are not read."""
    image = _load(path)
    affine, notes = _affine(image)
    return volume_header(_shape(image, frame), affine, notes, math.prod(image.shape[3:]))


def read_volume(
    path: Path, frame: int | None = None, dtype: type[np.floating] = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) of this type, and affine."""
    image = _load(path)
    affine, shape = _affine(image)[0], _shape(image, frame)
    with _whole(path, image) as image:
        if (picked := pick_frame(math.prod(image.shape[3:]), frame, image.shape)) is not None:
            image = image.slicer[..., picked]
        voxels = image.get_fdata(dtype=dtype, caching="unchanged")
    return voxels.reshape(shape), affine


def _load(path: Path) -> nib.spatialimages.SpatialImage:
    """The image, once its header claims no more than the file can hold."""
    parts = files(path)
    for part in parts[:2]:
        check_packing(part)
    with _open(parts[0]) as file:
        start = file.read(nib.Nifti2Header.sizeof_hdr)
    if len(parts) == 1:
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Header
        if not 0 <= float(kind(start[: kind.sizeof_hdr], check=False)["vox_offset"]) <= MOST_HEADER_BYTES:
            raise MedsynthError("declares that its voxels begin far behind its header: its header is damaged")
    elif any(part.stat().st_size > MOST_HEADER_BYTES for part in (parts[0], *parts[2:])):
        raise MedsynthError("has a header of many megabytes: it is damaged")
    nib.imageglobals.logger.setLevel(
        logging.CRITICAL
    )  # it reports what it repairs; what matters of that is checked here
    image = nib.load(path)
    stored = type(image.header)(start[: image.header.sizeof_hdr], check=False)  # nibabel makes 1 of a spacing of 0
    if (
        not (isinstance(stored, nib.Nifti1Header) and stored["sform_code"] > 0)
        and not (np.abs(stored["pixdim"][1:4]) > 0).all()
    ):
        raise MedsynthError("has a header without a size for each voxel (zero spacing): repair it")
    claimed, held = _end(image), parts[min(1, len(parts) - 1)].stat().st_size
    if claimed > held * DEFLATE_RATIO if _compressed(path) else claimed != held:
        raise MedsynthError(f"is truncated or damaged: its header declares {claimed:,} bytes, and it holds {held:,}")
    if _compressed(path) and len(parts) == 1 and _declared_size(path) != claimed % 2**32:
        with _whole(path, image):  # cut, or packed in several parts: unpacking it shows
            pass
    return image


def _declared_size(path: Path) -> int:
    """Bytes that the end of a gzip file says it unpacks to, modulo 2^32; of the last part only, if it has several."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _end(image: nib.spatialimages.SpatialImage) -> int:
    """Bytes up to the end of the voxels in their file."""
    return image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize


def _shape(image: nib.spatialimages.SpatialImage, frame: int | None) -> tuple[int, ...]:
    if image.get_data_dtype().names:
        raise MedsynthError("holds colours instead of one value per voxel: use the scan that it was made from")
    if image.get_data_dtype().kind == "c":
        raise MedsynthError("holds complex numbers: use the magnitude")
    shape = image.shape
    if sum(size > 1 for size in shape[3:]) > 1:
        raise MedsynthError(f"has {len(shape)} dimensions, {shape}, and 3 are needed: save each volume alone")
    check_size(shape[:3])
    pick_frame(math.prod(shape[3:]), frame, shape)
    return (*shape, 1)[:3]


def _affine(image: nib.spatialimages.SpatialImage) -> tuple[np.ndarray, list[str]]:
    """To mm, and notes on how it was found."""
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return _analyze_affine(image)
    notes = []
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        corners = np.array(np.meshgrid(*((0, size - 1) for size in (*image.shape, 1, 1)[:3]))).reshape(3, -1).T
        corners_mm = [nib.affines.apply_affine(affine, corners) for affine in (header.get_sform(), _qform(header))]
        if not (apart := np.linalg.norm(corners_mm[0] - corners_mm[1], axis=1).max()) <= SAME_POSITION_MM:
            notes.append(f"has an sform and a qform that disagree by up to {apart:.3g} mm: the sform was taken")
    elif header["sform_code"] <= 0 and header["qform_code"] <= 0:
        notes.append("has no sform and no qform: its axes were taken to run to the left, to the front and upwards")
    units = header.get_xyzt_units()[0]
    affine = image.affine.copy()
    if units in MM_PER_UNIT:
        affine[:3] *= MM_PER_UNIT[units]
        notes.append(f"has coordinates in units of a {units}: they were converted to mm")
    return affine, notes


def _qform(header: nib.Nifti1Header) -> np.ndarray:
    try:
        return header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)


def _analyze_affine(image: nib.spatialimages.SpatialImage) -> tuple[np.ndarray, list[str]]:
    """Of a format that leaves open which side is left: as nibabel does, but for volumes that say how they lie."""
    if Path(image.file_map["mat"].filename).is_file():
        return image.affine, ["is an Analyze volume: its axes were taken from the .mat beside it"]
    code = int.from_bytes(bytes(image.header["orient"])[:1], "little")
    if not 0 < code < len(ANALYZE_AXES):
        return image.affine, ["is an Analyze volume, which does not define left and right: its axes were taken as LAS"]
    axes = ANALYZE_AXES[code]
    affine, zooms = np.eye(4), image.header.get_zooms()[:3]
    for axis, (world, direction) in enumerate(axcodes2ornt(axes)):
        affine[:3, axis] = np.eye(3)[int(world)] * direction * zooms[axis]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(image.shape[:3]) - 1) / 2
    return affine, [f"is an Analyze volume whose header says orient {code}: its axes were taken as {axes}"]


@contextlib.contextmanager
def _whole(path: Path, image: nib.spatialimages.SpatialImage) -> Iterator[nib.spatialimages.SpatialImage]:
    """The same image; where it is compressed, over one open file that is read to its checksum after the voxels."""
    if not _compressed(path):
        yield image
        return
    with gzip.open(path) as file:
        yield type(image).from_file_map({"image": FileHolder(str(path), file)})
        file.seek(_end(image))
        if file.tell() < _end(image) or file.read(1):  # at the end, the checksum is compared
            raise MedsynthError("unpacks to less or more than its header declares: it is damaged; copy it again")


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if _compressed(path) else path.open("rb")


def _compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
