"""NRRD and MetaImage files, read by SimpleITK; volumes between SimpleITK and right-anterior-superior arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsynth.data.header import DEFLATE_RATIO, Header, check_size, pick_frame, volume_header
from medsynth.errors import MedsynthError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DATA_FILE = re.compile(rb"^(?:ElementDataFile *= *|data ?file: *)(.+?)\r?$", re.IGNORECASE | re.MULTILINE)
HEADER_BYTES = 2**16  # in which the text of a header has to end
HEADER_END = {".nrrd": re.compile(rb"\n\r?\n"), ".mha": re.compile(rb"\nElementDataFile *=[^\n]*\n")}


def files(path: Path) -> list[Path]:
    """The file, and the one that its voxels are in where they lie apart.

    Raises:
        MedsynthError: the voxels are in no file, or in many.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    if (end := HEADER_END.get(path.suffix.lower())) and not (end := end.search(start)):
        raise MedsynthError("has a header without an end: it is damaged; copy it again")
    names = [name.decode(errors="replace") for name in DATA_FILE.findall(start[: end.end()] if end else start)]
    if not names or names[0].upper() == "LOCAL":
        return [path]
    voxels = path.parent / names[0]
    if not voxels.is_file():
        raise MedsynthError(f"says that its voxels are in {names[0]}, and there is no such file: put it beside it")
    return [path, voxels]


def read_header(path: Path, frame: int | None = None) -> Header:
    """Size and spacing; the voxels are not read."""
    reader, _ = _reader(path, frame)
    shape = reader.GetSize()
    return volume_header(shape[:3], affine_of(reader), frames=math.prod(shape[3:]))


def read_volume(path: Path, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) float32 and affine."""
    reader, picked = _reader(path, frame)
    if picked is not None:
        reader.SetExtractSize([*reader.GetSize()[:3], 0])
        reader.SetExtractIndex([0, 0, 0, picked])
    affine, shape = affine_of(reader), (*reader.GetSize(), 1)[:3]
    reader.SetOutputPixelType(sitk.sitkFloat32)
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


def resample(voxels: np.ndarray, affine: np.ndarray, shape: Sequence[int], onto: np.ndarray) -> np.ndarray:
    """Bring voxels (X, Y, Z) with that affine onto a grid of that shape and affine; their lowest value outside."""
    grid = image_of(np.zeros(shape, np.uint8), onto)
    image = image_of(voxels, affine)
    return voxels_of(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, float(voxels.min())))


def _reader(path: Path, frame: int | None) -> tuple[sitk.ImageFileReader, int | None]:
    """A reader that has read the header, and the frame to take, once the header claims no more than the file holds."""
    quiet()
    parts = files(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = reader.GetSize()
    if reader.GetNumberOfComponents() > 1:
        raise MedsynthError(
            f"holds {reader.GetNumberOfComponents()} values per voxel, and one is needed: save one of them alone"
        )
    if len(shape) > 4:
        raise MedsynthError(f"has {len(shape)} dimensions, {shape}, and 3 are needed: save each volume alone")
    check_size(shape[:3])
    if math.prod(shape) > parts[-1].stat().st_size * DEFLATE_RATIO:
        raise MedsynthError(f"is truncated or damaged: it is too short for the {shape} voxels of its header")
    return reader, pick_frame(math.prod(shape[3:]), frame, shape) if len(shape) > 3 else None


def quiet() -> None:
    """Keep ITK and GDCM from warning on stderr of what becomes an error, or is none."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
