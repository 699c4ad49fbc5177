"""NRRD and MetaImage files, read by SimpleITK; volumes between SimpleITK and right-anterior-superior arrays."""

from __future__ import annotations

import contextlib
import locale
import math
import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from medsynth.data.io.header import DEFLATE_RATIO, Header, check_packing, check_size, pick_frame, volume_header
from medsynth.errors import MedsynthError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DATA_FILE = re.compile(rb"^(?:ElementDataFile *= *|data ?file: *)(.+?)\r?$", re.IGNORECASE | re.MULTILINE)
PACKED = re.compile(rb"^(?:CompressedData *= *True|encoding: *gz(?:ip)?)\s*$", re.IGNORECASE | re.MULTILINE)
UNPACKED = re.compile(rb"^(?:CompressedData *= *False|encoding: *raw)\s*$", re.IGNORECASE | re.MULTILINE)
GEOMETRY = {
    "spacing": re.compile(rb"^(?:Element(?:Spacing|Size) *=|spacings:|space directions:)(.*)$", re.I | re.M),
    "origin": re.compile(rb"^(?:(?:Offset|Origin|Position) *=|space origin:)(.*)$", re.I | re.M),
    "directions": re.compile(
        rb"^(?:(?:TransformMatrix|Orientation|Rotation) *=|space(?: dimension)?:.*$)(.*)$", re.I | re.M
    ),
}
"""For each part of the geometry, the lines of a header that state it."""
NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
SKIPPED = re.compile(rb"^(?:HeaderSize *=|(?:byte|line) ?skip: *-?[1-9])", re.IGNORECASE | re.MULTILINE)
HEADER_BYTES = 2**16  # in which the text of a header has to end
HEADER_END = {".nrrd": re.compile(rb"\n\r?\n"), ".mha": re.compile(rb"\nElementDataFile *=[^\n]*\n")}
CHUNK = 2**20


def files(path: Path) -> list[Path]:
    """The file, and that of its voxels where they are separate.

    Raises:
        MedsynthError: the voxels are in no file, or in many.
    """
    names = [name.decode(errors="replace") for name in DATA_FILE.findall(_text(path))]
    if not names or names[0].upper() == "LOCAL":
        return [path]
    voxels = path.parent / names[0]
    if not voxels.is_file():
        raise MedsynthError(f"has its voxels in {names[0]}, which does not exist: put that file beside it")
    return [path, voxels]


def read_header(path: Path, frame: int | None = None) -> Header:
    """Size and spacing; the voxels are not read."""
    reader, _ = _reader(path, frame)
    shape = reader.GetSize()
    missing = _missing_geometry(_text(path))
    if "spacing" in missing:
        raise MedsynthError("has no spacing: repair its header")
    notes = [f"has no {' and '.join(missing)}: its position is arbitrary"] if missing else []
    return volume_header(shape[:3], affine_of(reader), notes, math.prod(shape[3:]))


def read_volume(path: Path, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) float32 and affine."""
    reader, picked = _reader(path, frame)
    if picked is not None:
        reader.SetExtractSize([*reader.GetSize()[:3], 0])
        reader.SetExtractIndex([0, 0, 0, picked])
    affine, shape = affine_of(reader), (*reader.GetSize(), 1)[:3]
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with quiet():
        return voxels_of(reader.Execute()).reshape(shape), affine


def affine_of(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """(4, 4), voxels to right-anterior-superior mm; a picture lies in the plane z = 0."""
    size = image.GetDimension()
    directions = np.eye(max(size, 3))
    directions[:size, :size] = np.reshape(image.GetDirection(), (size, size))
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * (*image.GetSpacing(), 1.0)[:3]
    affine[:3, 3] = (*image.GetOrigin(), 0.0)[:3]
    return LPS_TO_RAS @ affine


def voxels_of(image: sitk.Image) -> np.ndarray:
    """(X, Y, Z) or (X, Y), whose memory is not the image's."""
    return sitk.GetArrayFromImage(image).T


def image_of(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """The inverse of `voxels_of` and `affine_of`, for volumes; the affine may be sheared."""
    image = sitk.GetImageFromArray(voxels.T)
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def resample(
    voxels: np.ndarray, affine: np.ndarray, shape: Sequence[int], onto: np.ndarray, outside: float | None = None
) -> np.ndarray:
    """Bring voxels (X, Y, Z) with that affine onto a grid of that shape and affine; their lowest value outside."""
    grid = image_of(np.zeros(shape, np.uint8), onto)
    image = image_of(voxels, affine)
    outside = float(voxels.min()) if outside is None else outside
    return voxels_of(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, outside))


def _reader(path: Path, frame: int | None) -> tuple[sitk.ImageFileReader, int | None]:
    """A reader that has read the header, and the frame to take, once the header claims just what the file holds."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImageIO")
    reader.SetFileName(str(path))
    parts = files(path)
    with quiet():
        reader.ReadImageInformation()
    shape = reader.GetSize()
    if reader.GetNumberOfComponents() > 1:
        raise MedsynthError(
            f"holds {reader.GetNumberOfComponents()} values per voxel, and one is needed: save one of them alone"
        )
    if len(shape) > 4:
        raise MedsynthError(f"has {len(shape)} dimensions, {shape}, and 3 are needed: save each volume alone")
    check_size(shape[:3])
    voxel = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    _check_bytes(parts, math.prod(shape) * voxel)
    return reader, pick_frame(math.prod(shape[3:]), frame, shape) if len(shape) > 3 else None


def _text(path: Path) -> bytes:
    """The header of a file.

    Raises:
        MedsynthError: it has no end.
    """
    check_packing(path)
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    end = HEADER_END.get(path.suffix.lower())
    whole = len(start) < HEADER_BYTES if end is None else end.search(start)
    if not whole:
        raise MedsynthError("has a header without an end: it is damaged; copy it again")
    return start if end is None else start[: whole.end()]


def _missing_geometry(text: bytes) -> list[str]:
    """Parts of the geometry that a header does not state.

    Raises:
        MedsynthError: a part is not in numbers; ITK would read those before the first other word.
    """
    found = {name: line.search(text) for name, line in GEOMETRY.items()}
    for line in filter(None, found.values()):
        words = re.sub(rb"[(),]|none", b" ", line[1]).split()
        if not all(map(NUMBER.fullmatch, words)):
            raise MedsynthError(
                f"has a damaged header: {line[1].decode(errors='replace').strip()[:60]!r} are not numbers"
            )
    return [name for name, line in found.items() if line is None]


def _check_bytes(parts: list[Path], claimed: int) -> None:
    """Whether a file holds as many bytes of voxels as its header claims; packed ones are unpacked to their checksum.

    ITK accepts packed voxels whose checksum is wrong, and more bytes than the header declares.
    """
    text = _text(parts[0])
    with parts[-1].open("rb") as file:
        file.seek(len(text) if len(parts) == 1 else 0)
        if SKIPPED.search(text):
            held = claimed
        elif PACKED.search(text):
            held = _unpacked(file, claimed)
        elif UNPACKED.search(text):
            held = parts[-1].stat().st_size - file.tell()
        else:
            held = min(claimed, parts[-1].stat().st_size * DEFLATE_RATIO)
    if held != claimed:
        raise MedsynthError(f"is damaged: its header declares {claimed:,} bytes of voxels, and there are {held:,}")


def _unpacked(file: BinaryIO, claimed: int) -> int:
    """How many bytes the rest of a file unpacks to; one more than claimed stands for all that are too many."""
    stream, count = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # with zlib's or gzip's header
    while not stream.eof and count <= claimed:
        packed = stream.unconsumed_tail or file.read(CHUNK)
        unpacked = len(stream.decompress(packed, CHUNK))
        if not packed and not unpacked:
            raise MedsynthError("is truncated: copy it again")
        count += unpacked
    return min(count, claimed + 1)


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep ITK, GDCM and what they use from writing on stderr; afterwards, the list holds what they wrote.

    Their C code writes to the file, not to `sys.stderr`. All threads share it: only the main one may redirect it.
    The code sometimes leaves the locale at C, in which Python would read and write all text as ASCII.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    messages: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield messages
        return
    sys.stderr.flush()
    stderr, culture = os.dup(2), locale.setlocale(locale.LC_ALL)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 2)
            yield messages
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            locale.setlocale(locale.LC_ALL, culture)
            file.seek(0)
            messages.append(file.read(CHUNK).decode(errors="replace"))
