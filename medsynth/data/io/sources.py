"""Find images of all kinds in folders, and read them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys
from PIL import Image

from medsynth.data.io import dicom, itk, nifti, pictures
from medsynth.data.io.header import Header, unreadable
from medsynth.errors import MedsynthError

FORMATS = "NIfTI, Analyze, NRRD, MetaImage, DICOM, PNG, JPEG or TIFF"
NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
OTHER_ENDINGS = (
    ".json",
    ".txt",
    ".tsv",
    ".csv",
    ".bval",
    ".bvec",
    ".gz",
    ".zip",
    ".raw",
    ".mat",
    ".md",
    ".pdf",
    ".xml",
)
AXES = "PLS"  # rows front to back, columns from the patient's right to left, slices upwards: as a radiologist sees them


class OtherGrid(MedsynthError):
    """Two contrasts that should be on one grid are not."""


@dataclass(frozen=True)
class Source:
    """What an image is read from.

    Args:
        path: the file; of a DICOM series the first slice's; of an Analyze pair either.
        frame: which volume of a 4D file.
        mask: file that is above 0 inside the patient; None: to be found.
        segmentation: label map on the grid of the image; None: none is read.
        contrasts: of several contrasts on one grid, the name and the file of each; the first of these is `path`.
    """

    path: str
    frame: int | None = None
    mask: str | None = None
    segmentation: str | None = None
    contrasts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any], key: str = "image") -> Source:
        """That of an entry of a datalist."""
        contrasts = () if key == "target" else tuple(entry.get("sources", {}).items())
        return cls(str(entry[key]), entry.get("frame"), entry.get("mask"), contrasts=contrasts)

    @property
    def parts(self) -> dict[str, Source]:
        """That of each contrast by name; of a single image, itself by an empty name."""
        return {name: replace(self, path=file, contrasts=()) for name, file in self.contrasts} or {"": self}


def find_images(folder: str | os.PathLike) -> list[Path]:
    """All images below a folder (hidden ones left out), sorted by path; links to folders are followed once.

    A DICOM series is its first slice's file, an Analyze pair its header.
    """
    folder = Path(folder)
    if dicom.is_directory(folder):
        raise MedsynthError(
            f"{folder} is a DICOMDIR, the table of contents of a disc: give its folder, {folder.parent}"
        )
    if not folder.is_dir():
        raise MedsynthError(f"{folder} is not a folder: give the folder that holds the images")
    found: list[Path] = []
    seen_files: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(root, name) for name in names if not name.startswith(".")]
        found += _images_among(paths)
        seen_files += paths
    if not found and (directory := next(filter(dicom.is_directory, seen_files), None)):
        raise MedsynthError(
            f"{directory} is a DICOMDIR, the table of contents of a disc, and none of the images that it names lies "
            "beside it: copy the whole disc"
        )
    return sorted(found)


def is_image(path: str | os.PathLike) -> bool:
    """Whether it is of a kind that can be read, by its name or, for DICOM, its content."""
    return _reader(path) is not None or is_picture(path)


def is_picture(path: str | os.PathLike) -> bool:
    """Whether the name ends like a 2D image."""
    return str(path).lower().endswith(PICTURE_ENDINGS)


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether it is a file of a DICOM series."""
    return _reader(path) is dicom


def files(source: Source | str | os.PathLike) -> list[Path]:
    """All files that make up an image.

    Raises:
        MedsynthError: one does not exist, in words that follow the file's name.
    """
    path = Path(_as_source(source).path)
    with _as_line(path):
        return [path] if (reader := _reader(path)) is None else reader.files(path)


def shown(path: str | os.PathLike) -> str:
    """How a line names an image: the number of files and the folder of a DICOM series, else the file."""
    try:
        count = len(dicom.files(Path(path))) if is_dicom(path) else 1
    except MedsynthError:
        count = 1
    return f"{count} files of {Path(path).parent}" if count > 1 else str(path)


def digest(source: Source | str | os.PathLike) -> str:
    """SHA-256 of all files that make up an image, as sidecars name it."""
    content = hashlib.sha256()
    for path in files(source):
        content.update(path.read_bytes())
    return content.hexdigest()


def read_header(source: Source | str | os.PathLike) -> Header:
    """Size and spacing, without reading the voxels.

    Raises:
        MedsynthError: why this image cannot be used, in words that follow the file's name.
    """
    source = _as_source(source)
    path, reader = Path(source.path), _reader(source.path)
    with _as_line(path):
        return pictures.read_header(path) if reader is None else reader.read_header(path, source.frame)


def header_or_none(source: Source | str) -> Header | None:
    """Size and spacing, or None if the image cannot be read: its preparation will say why."""
    try:
        return read_header(source)
    except MedsynthError:
        return None


def read_picture(path: str | os.PathLike) -> Image.Image:
    """A picture as a viewer shows it, see `pictures.read`.

    Raises:
        MedsynthError: why it cannot be read, in words that follow the file's name.
    """
    with _as_line(Path(path)):
        return pictures.read(Path(path))


def read_volume(source: Source | str | os.PathLike) -> MetaTensor:
    """Voxels (1, X, Y, Z) float32 in stored units, rescaled, with the affine to right-anterior-superior mm.

    Raises:
        MedsynthError: why it cannot be read, in words that follow the file's name.
    """
    source = _as_source(source)
    path, reader = Path(source.path), _reader(source.path)
    with _as_line(path):
        if reader is None:
            raise MedsynthError(
                "is a picture, and volumes are needed: for pictures, train with --modality image"
                if is_picture(path)
                else "is not a volume"
            )
        voxels, affine = reader.read_volume(path, source.frame)
        meta = {MetaKeys.SPACE: SpaceKeys.RAS, MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
        return MetaTensor(np.asarray(voxels, np.float32)[None], affine=affine, meta=meta)


def read_contrasts(source: Source, first: MetaTensor | None = None) -> dict[str, MetaTensor]:
    """The volume of each contrast by name, all on one grid.

    Args:
        first: that of the first contrast, if it is read already.

    Raises:
        MedsynthError: one cannot be read, in words that follow the first's name; `OtherGrid`: one is on another grid.
    """
    volumes: dict[str, MetaTensor] = {}
    for name, one in source.parts.items():
        try:
            volumes[name] = read_volume(one) if volumes or first is None else first
        except MedsynthError as error:
            raise MedsynthError(str(error) if not volumes else f"and {one.path}: it {error}") from error
        first = volumes[name] if first is None else first
        if not same_grid(first, volumes[name]):
            sizes = (" x ".join(map(str, volume.shape[1:])) for volume in (first, volumes[name]))
            raise OtherGrid(
                f"and {one.path} are on different grids ({' and '.join(sizes)} voxels): put them on one with "
                "tools/make_datalist.py --register"
            )
    return volumes


def same_grid(one: MetaTensor | Header, other: MetaTensor | Header) -> bool:
    """Whether the voxels of two volumes have the same places; both are volumes, or both headers of volumes."""
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=1e-3)


@contextlib.contextmanager
def _as_line(path: Path) -> Iterator[None]:
    """Whatever a reader raises on damaged bytes becomes a MedsynthError of one line; only regular files are read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MedsynthError("is not a file")
        yield
    except MedsynthError:
        raise
    except Exception as error:
        raise MedsynthError(unreadable(error)) from error


def read_exact(source: Source | str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z), and the affine of `read_volume`; float64 where float32 would round what a NIfTI file scales."""
    source = _as_source(source)
    volume = read_volume(source)
    values, affine = volume[0].numpy(), volume.affine.numpy()
    if _reader(source.path) is nifti:
        exact = nifti.read_volume(Path(source.path), source.frame, np.float64)[0]
        values = values if np.array_equal(values, exact, equal_nan=True) else exact
    return values, affine


def _as_source(source: Source | str | os.PathLike) -> Source:
    return source if isinstance(source, Source) else Source(str(source))


def _reader(path: str | os.PathLike) -> ModuleType | None:
    """The module that reads files of that kind; None for pictures and for other files."""
    name = str(path).lower()
    if name.endswith((".nii", ".nii.gz")) or (name.endswith((".hdr", ".img")) and not dicom.is_dicom(path)):
        return nifti
    if name.endswith(ITK_ENDINGS):
        return itk
    return dicom if not name.endswith(PICTURE_ENDINGS + OTHER_ENDINGS) and dicom.is_dicom(path) else None


def _images_among(paths: list[Path]) -> list[Path]:
    """Those of the files of one folder that name an image."""
    kinds: dict[Any, list[Path]] = defaultdict(list)
    for path in paths:
        kinds["picture" if is_picture(path) else _reader(path)].append(path)
    found = kinds["picture"] + kinds[itk] + [series.files[0] for series in dicom.find_series(kinds[dicom])]
    headers = {path.with_suffix("") for path in kinds[nifti] if path.suffix.lower() == ".hdr"}
    return found + [
        path for path in kinds[nifti] if path.suffix.lower() != ".img" or path.with_suffix("") not in headers
    ]
