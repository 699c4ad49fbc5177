"""What is known of an image before its voxels are read, and what a header may claim."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medsynth.errors import MedsynthError

MOST_VOXELS = 2**28  # 1 GiB as float32: a head at 0.35 mm
MOST_PIXELS = 2**26  # of a picture or a slice
MOST_HEADER_BYTES = 2**24
NIFTI_SIZES = {348, 540}  # of the headers of NIfTI-1, Analyze and NIfTI-2, which begin with it
VOXEL_MM = (0.01, 100.0)  # what a voxel of a head can measure
GZIP = b"\x1f\x8b"
OTHER_KINDS = {
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"BZh": "packed with bzip2: unpack it",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run git lfs pull",
    b"/annex/": "a pointer of git-annex, not the file itself: run git annex get",
    b"../.git/annex": "a pointer of git-annex, not the file itself: run git annex get",
    b"<": "a web page or XML: download the file again",
}
"""What a file that should be an image begins with where it is something else."""
DEFLATE_RATIO = 1032  # a compressed byte never holds more than that many


@dataclass(frozen=True)
class Header:
    """Size and spacing of an image, before its voxels are read.

    Args:
        shape: rows, columns and slices, once the image is upright.
        spacing_mm: the same for the distances between voxel centres; 1 for pictures, which have none.
        bits: of a picture, 8 or 16; None for volumes and for pictures of real numbers.
        affine: of a volume as it is stored, (4, 4), to right-anterior-superior mm; None for pictures.
        notes: what had to be assumed, in words that follow the file's name.
        frames: how many volumes a 4D file holds, of which this is one.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    bits: int | None = None
    affine: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    frames: int = 1


def volume_header(shape: Sequence[int], affine: np.ndarray, notes: Sequence[str] = (), frames: int = 1) -> Header:
    """The header of a volume of that stored shape, which is one of as many frames.

    Raises:
        MedsynthError: the shape or the affine cannot be a scan's.
    """
    shape = tuple(int(size) for size in shape)
    if len(shape) < 2 or min(shape) < 1:
        raise MedsynthError(f"has the shape {shape}: a volume needs rows, columns and slices")
    shape = (*shape, 1)[:3]
    check_size(shape)
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e6:
        raise MedsynthError("has an affine that is not finite or too large: repair its header")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if (sizes < 1e-6).any() or abs(np.linalg.det(affine[:3, :3] / np.maximum(sizes, 1e-6))) < 1e-3:
        raise MedsynthError("has an affine without a size for each voxel (zero spacing or singular): repair its header")
    if sizes.min() < VOXEL_MM[0] or sizes.max() > VOXEL_MM[1]:
        raise MedsynthError(
            f"declares voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm: its header is damaged, or "
            "in other units than mm"
        )
    labels = nib.aff2axcodes(affine)
    order = [next(i for i, label in enumerate(labels) if label in pair) for pair in ("AP", "LR", "IS")]
    upright = tuple(shape[i] for i in order)
    return Header(upright, tuple(float(sizes[i]) for i in order), None, np.asarray(affine, float), tuple(notes), frames)


def check_packing(path: Path) -> None:
    """Refuse a file that is packed otherwise than its name says, or is another kind of file.

    Raises:
        MedsynthError: what it is, and what to do, in words that follow the file's name.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if kind := next((kind for begins, kind in OTHER_KINDS.items() if start.startswith(begins)), None):
        raise MedsynthError(f"is {kind}")
    if start[128:] == b"DICM":
        raise MedsynthError(f"is a DICOM file: rename it to {path.name.split('.')[0]}.dcm")
    ending = path.suffix.lower()
    if ending == ".gz" and _is_nifti(start):
        raise MedsynthError(f"is not packed with gzip, as its name says: rename it to {path.name[:-3]}")
    if not start.startswith(GZIP):
        return
    try:
        with gzip.open(path) as file:
            inside = file.read(4)
    except (OSError, EOFError, zlib.error):
        return  # damaged, which its reader reports
    if ending == ".gz" and inside.startswith(GZIP):
        raise MedsynthError("is packed with gzip twice: unpack it once with gunzip, and name the result .nii.gz")
    if ending != ".gz":
        cure = f"rename it to {path.name}.gz" if ending == ".nii" and _is_nifti(inside) else "unpack it with gunzip"
        raise MedsynthError(f"is packed with gzip, and its name says that it is not: {cure}")


def _is_nifti(start: bytes) -> bool:
    return bool({int.from_bytes(start[:4], order) for order in ("little", "big")} & NIFTI_SIZES)


def check_size(shape: Sequence[int]) -> None:
    """Refuse sizes that do not fit into memory.

    Raises:
        MedsynthError: it has more voxels than `MOST_VOXELS`.
    """
    if (voxels := math.prod(shape)) > MOST_VOXELS:
        raise MedsynthError(
            f"declares {voxels:,} voxels, and at most {MOST_VOXELS:,} can be read: its header is damaged, or it "
            "must be downsampled first"
        )


def pick_frame(frames: int, frame: int | None, shape: Sequence[int]) -> int | None:
    """Which of the frames to take; None where there is only one.

    Raises:
        MedsynthError: there are several and none was picked, or one that does not exist.
    """
    if frames == 1:
        return None
    if frame is None:
        raise MedsynthError(
            f"is 4D, {tuple(shape)}: pick a frame with --frame (0 to {frames - 1}) of tools/make_datalist.py"
        )
    if not 0 <= frame < frames:
        raise MedsynthError(f"has no frame {frame}: pick one from 0 to {frames - 1} with --frame")
    return frame


def unreadable(error: BaseException) -> str:
    """One line for an exception that a reader raised on a damaged file."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read: check its permissions"
    reason = " ".join(str(error).split())
    reason = reason.rsplit("ERROR: ", 1)[-1]  # what ITK says before it names lines of its source
    reason = re.sub(r"""(file |of )?(["']).*\2""", "", reason)
    reason = re.sub(r"(\S*/\S+|\w+\(0x[0-9a-f]+\):?)", "", reason).strip()[:120]
    return f"cannot be read, it seems truncated or damaged ({reason or type(error).__name__}): copy it again"
