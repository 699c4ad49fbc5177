"""Synthetic volumes as DICOM series that say what they are."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from medsynth.data.io.itk import LPS_TO_RAS
from medsynth.errors import MedsynthError
from medsynth.storage import disk_errors, write_bytes

SQUARE = 1e-3  # cosine up to which two axes are at right angles
UNKNOWN = ("AccessionNumber", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID", "StudyDate")
UNKNOWN += ("StudyTime", "Laterality", "PositionReferenceIndicator")
"""Asked for by the standard, empty where it is not known."""


def export(
    volume: np.ndarray,
    affine: np.ndarray,
    folder: str | Path,
    modality: str,
    derivation: str,
    source: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> None:
    """Write a synthetic volume as a series of one file a slice; all of them are written, or none is.

    Identifiers are new, and the patient is fictitious. The source series is referred to by its UIDs; its frame of
    reference is retained, since the volume lies in it.

    Args:
        volume: (X, Y, Z); int16 in HU for CT, else anything that 16 bits and a slope can hold.
        affine: (4, 4), to right-anterior-superior mm.
        folder: to make for the series.
        modality: `ct` or `mri`.
        derivation: how the volume was made, in words, for the derivation description.
        source: the DICOM files that it was made from; of other kinds, none.
        overwrite: replace what is in the folder.

    Raises:
        MedsynthError: the folder exists already, or DICOM cannot hold the volume's grid.

    Reference: DICOM PS3.3, C.7.6.1 (derived images) and C.12.1 (synthetic data).
    """
    folder, axes = Path(folder), _axes(affine)
    if folder.exists() and not overwrite:
        raise MedsynthError(f"{folder} is there already: give another output_dir, or --overwrite true")
    common = _common(modality, derivation, [pydicom.dcmread(path, stop_before_pixels=True) for path in source])
    stored, slope, intercept = _stored(volume)
    beside = folder.with_name(f".{folder.name}.tmp")
    with disk_errors(folder):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for index in range(volume.shape[2]):
            image = _slice(stored[..., index], index, axes, affine)
            image.RescaleSlope, image.RescaleIntercept = slope, intercept
            image.update(common)
            write_bytes(beside / f"{index + 1:04d}.dcm", _as_file(image))
        if folder.exists():
            shutil.rmtree(folder)
        beside.replace(folder)


def _axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the volume's axes in DICOM's coordinates (3, 3), and the distances between its voxels."""
    columns = (LPS_TO_RAS @ affine)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    axes = columns / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > SQUARE:
        raise MedsynthError(
            "the volume has axes that are not at right angles, which DICOM cannot hold: leave out dicom"
        )
    return axes, spacing


def _common(modality: str, derivation: str, sources: Sequence[Dataset]) -> Dataset:
    """What all slices of the series have."""
    now = datetime.now(timezone.utc)
    common = Dataset()
    for name in UNKNOWN:
        setattr(common, name, "")
    common.PatientName, common.PatientID = "SYNTHETIC", "SYNTHETIC"
    common.PatientIdentityRemoved, common.SyntheticData = "YES", "YES"
    common.BurnedInAnnotation = "NO"
    common.ImageType = ["DERIVED", "SECONDARY"]
    common.DerivationDescription = derivation[:1024]
    common.SOPClassUID = CTImageStorage if modality == "ct" else MRImageStorage
    common.Modality = "CT" if modality == "ct" else "MR"
    common.StudyInstanceUID, common.SeriesInstanceUID = generate_uid(), generate_uid()
    common.FrameOfReferenceUID = sources[0].get("FrameOfReferenceUID") or generate_uid() if sources else generate_uid()
    common.SeriesNumber, common.SeriesDescription = 1, "Synthetic"
    common.Manufacturer, common.SoftwareVersions = "medsynth", version("medsynth")
    common.InstanceCreationDate, common.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    if sources:
        common.ReferencedSeriesSequence = [_reference(sources)]
        common.SourceImageSequence = [_image_reference(source) for source in sources]
    return common


def _reference(sources: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = [_image_reference(source) for source in sources]
    return series


def _image_reference(source: Dataset) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return image


def _stored(volume: np.ndarray) -> tuple[np.ndarray, DSfloat, DSfloat]:
    """16-bit voxels, signed, with the slope and intercept that give the values back."""
    if volume.dtype == np.int16:
        return volume, DSfloat(1), DSfloat(0)
    low, high = float(volume.min()), float(volume.max())
    slope = DSfloat(max(high - low, 1e-6) / 65534, auto_format=True)  # one less, so that rounding stays inside
    intercept = DSfloat(low + 32768 * float(slope), auto_format=True)
    stored = np.round((volume.astype(np.float64) - float(intercept)) / float(slope))
    return np.clip(stored, -32768, 32767).astype(np.int16), slope, intercept


def _slice(pixels: np.ndarray, index: int, axes: tuple[np.ndarray, np.ndarray], affine: np.ndarray) -> Dataset:
    """Pixels (X, Y) of the slice of that index, and where they lie; X runs along the rows of a DICOM image."""
    directions, spacing = axes
    image = Dataset()
    image.SOPInstanceUID, image.InstanceNumber = generate_uid(), index + 1
    image.Rows, image.Columns = pixels.shape[::-1]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.PixelData = np.ascontiguousarray(pixels.T).astype("<i2").tobytes()
    image.PixelSpacing = _decimals(spacing[[1, 0]])
    image.SliceThickness = image.SpacingBetweenSlices = _decimals(spacing[2:])[0]
    image.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
    image.ImagePositionPatient = _decimals((LPS_TO_RAS @ affine @ [0, 0, index, 1])[:3])
    return image


def _decimals(values: Sequence[float]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _as_file(image: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    FileDataset(buffer, image, preamble=b"\0" * 128, file_meta=meta).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
