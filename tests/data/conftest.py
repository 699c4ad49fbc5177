from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage, generate_uid


@pytest.fixture
def head() -> Callable[..., np.ndarray]:
    """An ellipsoid of 50 to 150 in air of 0, right-anterior-superior, with a bright spot at its right front."""

    def build(shape: tuple[int, int, int] = (24, 30, 26), seed: int = 0) -> np.ndarray:
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        inside = sum(axis**2 for axis in axes) < 0.6
        volume = np.where(inside, np.random.default_rng(seed).integers(50, 150, shape), 0)
        right, front, middle = shape[0] // 2 + 4, shape[1] // 2 + 6, shape[2] // 2
        volume[right : right + 3, front : front + 3, middle - 2 : middle + 3] = 400
        return volume.astype(np.int16)

    return build


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write a right-anterior-superior volume with its axes stored as `orientation` says."""

    def write(path: Path, volume: np.ndarray, mm: tuple[float, ...] = (2, 2, 2), orientation: str = "RAS") -> Path:
        image = nib.Nifti1Image(volume, np.diag([*mm, 1.0]))
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image.as_reoriented(axcodes2ornt(orientation, (("L", "R"), ("P", "A"), ("I", "S")))), path)
        return path

    return write


@pytest.fixture
def study(tmp_path: Path, head: Callable, save: Callable) -> list[dict]:
    """Entries of twelve heads in turns of class NC and AD."""
    paths = [save(tmp_path / "study" / f"p{i:02d}.nii.gz", head(seed=i)) for i in range(12)]
    return [{"image": str(p), "subject": p.name[:3], "label": ("NC", "AD")[i % 2]} for i, p in enumerate(paths)]


@pytest.fixture
def slices() -> Callable[..., list[pydicom.Dataset]]:
    """The DICOM slices, in order, of a volume (columns, rows, slices) of integers that lies obliquely."""

    def build(
        volume: np.ndarray,
        spacing_mm: tuple[float, float, float] = (1.5, 2.0, 3.0),
        orientation: tuple[float, ...] = (0.8, 0.6, 0, 0, 0, -1),
        step_mm: tuple[float, float, float] | None = None,
        **tags: object,
    ) -> list[pydicom.Dataset]:
        series, normal = generate_uid(), np.cross(orientation[:3], orientation[3:])
        step = normal * spacing_mm[2] if step_mm is None else np.array(step_mm)
        found = []
        for index, plane in enumerate(np.moveaxis(volume, 2, 0)):
            one = pydicom.Dataset()
            one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = MRImageStorage, generate_uid(), series
            one.PatientName, one.PatientID, one.StudyDate, one.Modality = "Doe^Jane", "4711", "20010203", "MR"
            one.InstanceNumber, one.ImageType = index + 1, ["ORIGINAL", "PRIMARY"]
            one.ImageOrientationPatient = list(orientation)
            one.ImagePositionPatient = [round(float(x), 6) for x in (10.0, -20.0, 30.0) + index * step]
            one.PixelSpacing, one.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
            one.Columns, one.Rows, one.SamplesPerPixel = *plane.shape, 1
            one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", int(plane.min() < 0)
            one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
            one.add_new("PixelData", "OW", plane.T.astype("<i2").tobytes())
            one.file_meta = pydicom.dataset.FileMetaDataset()
            one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            one.update(tags)
            found.append(one)
        return found

    return build


@pytest.fixture
def store() -> Callable[..., Path]:
    """Write DICOM slices as 00.dcm, 01.dcm, ... into a folder; returns the first slice's file."""

    def write(folder: Path, series: list[pydicom.Dataset], name: str = "{:02d}.dcm") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for index, one in enumerate(series):
            one.save_as(folder / name.format(index), enforce_file_format=True)
        return folder / name.format(0)

    return write
