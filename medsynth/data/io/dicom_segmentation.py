"""Label maps of synthetic DICOM series as DICOM SEG, which highdicom writes."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from medsynth.errors import MedsynthError
from medsynth.storage import write_bytes


def check_highdicom() -> None:
    """Refuse what cannot be written."""
    if importlib.util.find_spec("highdicom") is None:
        raise MedsynthError("DICOM SEG needs highdicom: pip install highdicom, or leave dicom false")


def export_segmentation(codes: np.ndarray, classes: Mapping[int, str], series: str | Path, path: str | Path) -> None:
    """Write a label map as a DICOM SEG of one segment a class, which refers to its series.

    An empty label map is not written.

    Args:
        codes: (X, Y, Z), like the volume that `dicom_export.export` wrote.
        classes: names by code.
        series: folder of that series.
        path: of the file.

    Raises:
        MedsynthError: highdicom is not installed.

    Reference: DICOM PS3.3, A.51.
    """
    check_highdicom()
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr.coding import CodedConcept

    held = [code for code in classes if code and (codes == code).any()]
    if not held:
        return
    numbers = np.zeros(codes.shape, np.uint8)
    for number, code in enumerate(held, 1):
        numbers[codes == code] = number
    segments = [
        SegmentDescription(
            number,
            classes[code][:64],
            CodedConcept("91723000", "SCT", "Anatomical structure"),
            CodedConcept(str(code), "99MEDSYNTH", classes[code][:64]),
            "MANUAL",  # given, or made of given ones
        )
        for number, code in enumerate(held, 1)
    ]
    found = Segmentation(
        source_images=[pydicom.dcmread(file) for file in sorted(Path(series).glob("*.dcm"))],
        pixel_array=np.ascontiguousarray(numbers.transpose(2, 1, 0)),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="medsynth",
        manufacturer_model_name="medsynth",
        software_versions=version("medsynth"),
        device_serial_number="0",
        series_description="Synthetic: label map",
    )
    found.SyntheticData = "YES"
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    write_bytes(path, buffer.getvalue())
