"""DICOM series: found, checked for what would damage a volume, and read by SimpleITK (GDCM)."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import generate_fragments
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medsynth.data.io.dicom_geometry import Slice, affine_of, in_order, shape_of, straight, tilt_degrees, volume_of
from medsynth.data.io.dicom_objects import TILES, derived, is_mosaic, is_scout, no_scan, not_listed
from medsynth.data.io.header import MOST_HEADER_BYTES, Header, unreadable, volume_header
from medsynth.data.io.itk import quiet, resample, voxels_of
from medsynth.errors import MedsynthError

ENDINGS = (".dcm", ".dicom", ".ima")
MOST_META_BYTES = 4096  # in which the transfer syntax is named
DIRECTORY = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![\d.])")  # the SOP class of a DICOMDIR
MOST_TRAILING_BYTES = 2**16
TAGS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesDescription ProtocolName ImageType InstanceNumber PatientID
    Modality Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices
    BitsAllocated RescaleSlope RescaleIntercept SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Series:
    """The images of a folder that share a SeriesInstanceUID (a file of many frames is one of its own).

    Args:
        slices: its slices, in their order along the normal where they have positions.
        facts: what its first file says of all of them.
        trouble: why its files cannot be used, if they could not be read or are no images.
    """

    slices: tuple[Slice, ...]
    facts: pydicom.Dataset
    trouble: str | None = None

    @property
    def files(self) -> list[Path]:
        """All of them, the first slice's first; it names the series."""
        return list(dict.fromkeys(slice_.path for slice_ in self.slices))


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether the name ends like a DICOM file, or its content begins like one."""
    try:
        if not Path(path).is_file():
            return False
        if str(path).lower().endswith(ENDINGS):
            return True
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_directory(path: str | os.PathLike) -> bool:
    """Whether it is a DICOMDIR, the table of contents of a disc."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(MOST_META_BYTES)
    except OSError:
        return False
    return start[128:132] == b"DICM" and bool(DIRECTORY.search(start))


def find_series(paths: Iterable[Path]) -> list[Series]:
    """The series of the DICOM files of one folder, ordered by their first files."""
    groups: dict[Any, list[Slice]] = defaultdict(list)
    series, facts = [], {}
    for path in sorted(path for path in paths if not is_directory(path)):
        try:
            found = _tags(path)
            other = no_scan(found)
            slices = [Slice(path)] if other else _slices(path, found)
        except Exception as error:  # on damaged bytes, pydicom raises errors of any type
            reason = str(error) if isinstance(error, MedsynthError) else unreadable(error)
            series.append(Series((Slice(path),), pydicom.Dataset(), reason))
            continue
        key = (path if len(slices) > 1 else str(found.get("SeriesInstanceUID")), other)
        groups[key] += slices
        facts.setdefault(key, found)
    series += [Series(in_order(slices), facts[key], key[1]) for key, slices in groups.items()]
    return sorted(series, key=lambda one: one.files[0])


def series_of(path: Path) -> Series:
    """The series of its folder that a file belongs to."""
    if is_directory(path):
        raise MedsynthError(
            f"is a DICOMDIR, the table of contents of a disc: give the folder that it is in, {path.parent}"
        )
    with os.scandir(path.parent) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    state = tuple(sorted((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in files))
    for series in _series_in(path.parent, state):
        if path in series.files:
            return series
    raise MedsynthError("is not a DICOM file: give the file of a slice")


def files(path: Path) -> list[Path]:
    """All of the series of that file, in order."""
    return series_of(path).files


def read_header(path: Path, frame: int | None = None) -> Header:
    """Size and spacing of the series of that file; the voxels are not read.

    Raises:
        MedsynthError: what is wrong with the series.
    """
    series = series_of(path)
    slices = check(series, frame)
    shape, affine = straight(slices) if (tilt := tilt_degrees(slices)) else (shape_of(slices), affine_of(slices))
    notes = [f"has a tilted gantry ({tilt:.1f} degrees): it is resampled to a straight grid"] if tilt else []
    if series.facts.get("PhotometricInterpretation") == "MONOCHROME1":
        notes.append("is stored with white as its lowest value (MONOCHROME1): it was inverted")
    if word := derived(series.facts):
        notes.append(f"was computed from scans ({word}): choose other series with --pattern, unless it is wanted")
    if len(slices) == 1:
        notes.append("is a series of a single slice")
    return volume_header(shape, affine, notes, frames=len(series.slices) // len(slices))


def read_volume(path: Path, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) float32, rescaled, and the affine, of the series of that file."""
    series = series_of(path)
    slices = check(series, frame)
    files = list(dict.fromkeys(slice_.path for slice_ in slices))
    if series.facts.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian).is_compressed:
        for file in files:
            _check_fragments(file)
    voxels = _voxels(files)
    if len(files) == 1:
        voxels = voxels[..., [slice_.frame for slice_ in slices]]
    if voxels.shape != shape_of(slices):
        raise MedsynthError(f"has {voxels.shape} voxels where its header declares {shape_of(slices)}: export it again")
    if not tilt_degrees(slices):
        return voxels, affine_of(slices)
    shape, affine = straight(slices)
    return resample(voxels, affine_of(slices), shape, affine), affine


def check(series: Series, frame: int | None = None) -> list[Slice]:
    """The slices of a volume, in order.

    Raises:
        MedsynthError: what is wrong with the series, and what to do, in words that follow the name of its first file.
    """
    slices, facts = series.slices, series.facts
    if series.trouble:
        raise MedsynthError(series.trouble)
    if not all(min(slice_.shape) > 0 for slice_ in slices):
        kind = getattr(facts.get("SOPClassUID"), "name", "of an unknown kind")
        raise MedsynthError(f"is a DICOM object without an image ({kind})")
    if facts.get("SamplesPerPixel", 1) != 1:
        raise MedsynthError("holds colours instead of one value per voxel: use the scan that it was made from")
    if facts.get("PhotometricInterpretation") == "MONOCHROME1" and facts.get("Modality") == "CT":
        raise MedsynthError("is CT with white as its lowest value (MONOCHROME1): Hounsfield units need MONOCHROME2")
    if is_scout(facts):
        raise MedsynthError(f"is a localizer (a scout of {len(slices)} images), not a volume")
    if is_mosaic(facts):
        raise MedsynthError(
            "is a Siemens mosaic, whose slices are tiles of one picture: convert it to NIfTI with dcm2niix first"
        )
    return volume_of(slices, frame)


def subject_of(path: Path) -> str | None:
    """A short name for the patient of a series that does not reveal the patient's id; None if there is none."""
    patient = str(series_of(path).facts.get("PatientID") or "").strip()
    return "patient-" + hashlib.sha256(patient.encode()).hexdigest()[:8] if patient else None


def modality_of(path: Path) -> str:
    """The modality of the series of that file, such as MR; empty if its header does not say."""
    return str(series_of(path).facts.get("Modality") or "").strip()


def unlisted(path: Path, modalities: Collection[str] | None = None) -> str | None:
    """Why the series of that file is left out of a list of images; None if it is not.

    Args:
        modalities: that the user asks for; None: CT and MR.
    """
    series = series_of(path)
    return no_scan(series.facts) or not_listed(series.facts, modalities) if series.facts else None


@functools.lru_cache(maxsize=4)
def _series_in(folder: Path, state: tuple[tuple, ...]) -> list[Series]:
    """Of a folder that is in that state."""
    return find_series(path for name, *_ in state if not name.startswith(".") and is_dicom(path := folder / name))


def _tags(path: Path) -> pydicom.Dataset:
    """What is needed of a file's header, once the file is no longer than its pixels need."""
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MOST_HEADER_BYTES))
    content = start.getvalue()
    if content[132 if content[128:132] == b"DICM" else 0 :][:2] == b"\0\0":  # pydicom would read on to the last zero
        raise MedsynthError("is not a DICOM file, or is damaged")
    if DeflatedExplicitVRLittleEndian.encode() in content[:MOST_META_BYTES]:
        raise MedsynthError("is compressed as a whole (deflated), which is not read: export it uncompressed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = pydicom.dcmread(start, force=True, stop_before_pixels=True, specific_tags=[*TAGS, *TILES])
        if not facts:
            raise MedsynthError("is not a DICOM file, or is damaged")
        facts.decode()
    size = [int(facts.get(name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    pixels = math.prod(size) * int(facts.get("BitsAllocated") or 8) // 8
    if (rest := path.stat().st_size - start.tell() - 2 * pixels) > MOST_TRAILING_BYTES and "Rows" in facts:
        raise MedsynthError(f"holds {rest:,} bytes more than its pixels could need: it is damaged; copy it again")
    return facts


def _slices(path: Path, facts: pydicom.Dataset) -> list[Slice]:
    """The slices of a file.

    Raises:
        MedsynthError: it has frames, but does not say where each lies.
    """
    count = int(facts.get("NumberOfFrames") or 1)
    frames = facts.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    if len(frames) != count:
        raise MedsynthError(f"holds {count} frames and has positions of {len(frames)}: export single slices")
    shared = (facts.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]

    def value(frame: pydicom.Dataset, sequence: str, keyword: str) -> Any:
        found = (group[sequence][0].get(keyword) for group in (frame, shared) if group.get(sequence))
        return next((one for one in found if one is not None), facts.get(keyword))

    slices = []
    for index, frame in enumerate(frames):
        spacing = _numbers(value(frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
        thickness = _numbers(value(frame, "PixelMeasuresSequence", "SpacingBetweenSlices"), 1)
        rescale = [
            value(frame, "PixelValueTransformationSequence", name) for name in ("RescaleSlope", "RescaleIntercept")
        ]
        slices.append(
            Slice(
                path=path,
                frame=index,
                uid=(uid := facts.get("SOPInstanceUID")) and f"{uid}/{index}",
                number=int(facts.get("InstanceNumber") or 0) if count == 1 else index,
                position=_numbers(value(frame, "PlanePositionSequence", "ImagePositionPatient"), 3),
                orientation=_numbers(value(frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
                spacing=spacing,
                thickness=thickness or _numbers(value(frame, "PixelMeasuresSequence", "SliceThickness"), 1),
                shape=(int(facts.get("Rows") or 0), int(facts.get("Columns") or 0)),
                rescale=_numbers(rescale, 2),
            )
        )
    return slices


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """A tag's value as that many finite numbers; None if it is not that."""
    numbers = tuple(float(one) for one in np.atleast_1d(value) if one is not None) if value is not None else ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _check_fragments(path: Path) -> None:
    """Whether compressed pixels are all there: of some that are cut, GDCM takes gigabytes before it reports them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pydicom.dcmread(path, force=True, specific_tags=["PixelData"]).PixelData
        deque(generate_fragments(pixels), maxlen=0)
    except Exception as error:
        raise MedsynthError(f"is of a series in which {path.name} {unreadable(error)}") from error


def _voxels(files: Sequence[Path]) -> np.ndarray:
    """(X, Y, Z) of a file of many frames, or of many files of one."""
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(path) for path in files])
    try:
        with quiet() as messages:
            voxels = voxels_of(reader.Execute())
        if any("Corrupt JPEG" in text for text in messages):  # GDCM reads what is left of it
            raise MedsynthError("is of a series with corrupt JPEG data: copy it again")
    except RuntimeError as error:
        if len(files) == 1:
            raise
        for path in files:
            try:
                _voxels([path])
            except RuntimeError:
                raise MedsynthError(f"is of a series in which {path.name} {unreadable(error)}") from error
        raise
    return voxels.reshape(*voxels.shape[:2], -1)
