from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from medsynth.data.datalist.layout import survey
from medsynth.data.io.sources import find_images, read_header, read_volume
from medsynth.errors import MedsynthError
from medsynth.inference.reconstruct import find_inputs

VOLUME = np.random.default_rng(0).integers(0, 4000, (7, 9, 5)).astype(np.int16)


def of_class(series: list, number: str, **tags: object) -> list:
    for one in series:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = UID(f"1.2.840.10008.5.1.4.1.1.{number}")
        for name, value in tags.items():
            setattr(one, name, value)
    return series


@pytest.mark.parametrize(
    ("number", "modality", "name"),
    [
        ("66.4", "SEG", "Segmentation Storage, modality SEG"),
        ("481.2", "RTDOSE", "RT Dose Storage, modality RTDOSE"),
        ("481.3", "RTSTRUCT", "RT Structure Set Storage"),
        ("88.33", "SR", "Comprehensive SR Storage"),
        ("11.1", "PR", "Grayscale Softcopy Presentation State Storage"),
        ("104.1", "DOC", "Encapsulated PDF Storage"),
        ("7", "CT", "Secondary Capture Image Storage, modality CT"),
        ("7.3", "OT", "Multi-frame Grayscale Word Secondary Capture Image Storage"),
        ("4.2", "MR", "MR Spectroscopy Storage"),
        ("4", "SEG", "MR Image Storage, modality SEG"),
    ],
)
def test_what_is_no_scan_is_left_out_by_name(tmp_path, slices, store, number, modality, name):
    store(tmp_path / "p1" / "scan", slices(VOLUME))
    store(tmp_path / "p1" / "other", of_class(slices(VOLUME), number, Modality=modality))
    found = survey(tmp_path)
    assert [entry["image"] for entry in found.entries] == [str(tmp_path / "p1" / "scan" / "00.dcm")]
    (reason,) = found.left_out.values()
    assert "is a DICOM object that is no scan" in reason
    assert name in reason
    with pytest.raises(MedsynthError, match="that is no scan"):
        read_header(tmp_path / "p1" / "other" / "00.dcm")


def test_objects_without_pixels_or_with_frames_alone_are_named(tmp_path, slices, store):
    (report,) = of_class(slices(VOLUME[..., :1]), "88.11", Modality="SR")
    del report.PixelData, report.Rows, report.Columns, report.ImagePositionPatient
    (dose,) = of_class(slices(VOLUME[..., :1]), "481.2", Modality="RTDOSE", NumberOfFrames=4)
    for name, one, line in (("sr", report, "Basic Text SR Storage"), ("dose", dose, "RT Dose Storage")):
        with pytest.raises(MedsynthError, match=line):
            read_header(store(tmp_path / name, [one]))


def test_a_capture_in_the_series_of_a_scan_does_not_spoil_it(tmp_path, slices, store):
    *series, capture = slices(np.dstack([VOLUME, VOLUME[..., :1]]))
    store(tmp_path, [*series, *of_class([capture], "7")])
    scan, other = find_images(tmp_path)
    assert read_header(scan).shape[2] + read_header(scan).shape[0] + read_header(scan).shape[1] == 7 + 9 + 5
    with pytest.raises(MedsynthError, match="Secondary Capture"):
        read_header(other)


@pytest.mark.parametrize("modality", ["MR", None])
def test_the_modality_decides_where_the_class_is_unknown(tmp_path, slices, store, modality):
    private = slices(VOLUME, SOPClassUID="1.3.46.670589.11.0.0.12.1", Modality=modality)
    assert len(survey_of(store, tmp_path / "a" / "p1", private).entries) == 1
    with pytest.raises(MedsynthError, match=r"no scan \(modality SEG\)"):
        survey_of(store, tmp_path / "b" / "p1", slices(VOLUME, SOPClassUID="1.3.46.1", Modality="SEG"))


def survey_of(store, folder, series):
    store(folder, series)
    return survey(folder.parent)


@pytest.mark.parametrize(
    ("number", "modality", "asked"),
    [("128", "PT", "PT"), ("20", "NM", "NM"), ("30", "MR", "MR"), ("4", "PT", "PT"), ("128", "", "OT")],
)
def test_other_images_are_listed_only_on_request(tmp_path, slices, store, number, modality, asked):
    store(tmp_path / "p1" / "ct", of_class(slices(VOLUME), "2", Modality="CT"))
    other = store(tmp_path / "p1" / "other", of_class(slices(VOLUME), number, Modality=modality))
    found = survey(tmp_path)
    assert [entry["image"] for entry in found.entries] == [str(tmp_path / "p1" / "ct" / "00.dcm")]
    assert found.left_out[other].endswith(f"it is listed only on request, --modality {asked}")
    on_request = survey(tmp_path, modalities=[asked.lower()])
    assert [entry["image"] for entry in on_request.entries] == [str(other)]
    assert list(on_request.left_out.values()) == [f"has the modality CT, and --modality is {asked}"]
    assert read_header(other).frames == 1


def test_inference_takes_the_scans_of_a_folder(tmp_path, slices, store):
    scan = store(tmp_path / "a", slices(VOLUME))
    pet = store(tmp_path / "b", of_class(slices(VOLUME), "128", Modality="PT"))
    assert [entry["image"] for entry in find_inputs(str(tmp_path))] == [str(scan)]
    assert [entry["image"] for entry in find_inputs(str(pet.parent))] == [str(pet)]


@pytest.mark.parametrize(
    ("types", "description", "word"),
    [
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"], "ep2d", "ADC"),
        (["DERIVED", "PRIMARY", "FA"], "dti", "FA"),
        (["DERIVED", "SECONDARY", "MPR", "CSA MIP"], "tof", "MIP"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE"], "tof", "PROJECTION"),
        (["DERIVED", "SECONDARY"], "Apparent ADC (10^-6 mm2/s)", "ADC"),
        (["ORIGINAL", "PRIMARY", "P", "ND"], "gre", "P"),
        (["DERIVED", "PRIMARY", "MPR"], "t1", None),
        (["ORIGINAL", "PRIMARY", "M"], "t1 FA 15", None),
        ("ORIGINAL", "ADC", None),
    ],
)
def test_computed_maps_are_noted(tmp_path, slices, store, types, description, word):
    notes = read_header(store(tmp_path, slices(VOLUME, ImageType=types, SeriesDescription=description))).notes
    assert [note for note in notes if "computed" in note] == (
        [f"was computed from scans ({word}): choose other series with --pattern, unless it is wanted"] if word else []
    )


@pytest.mark.parametrize("types", [["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "MOSAIC"], ["ORIGINAL", "PRIMARY"]])
def test_mosaics_are_left_out_by_name(tmp_path, slices, store, types):
    series = slices(VOLUME[..., :2], ImageType=types)
    for one in series:  # tiles fill the whole picture, and each picture is a volume
        one.ImagePositionPatient = [0, 0, 0]
        if "MOSAIC" not in types:
            one.add_new(0x0019_0010, "LO", "SIEMENS MR HEADER")
            one.add_new(0x0019_100A, "US", 4)
    with pytest.raises(MedsynthError, match="is a Siemens mosaic.*dcm2niix"):
        read_header(store(tmp_path, series))


def test_enhanced_files_may_keep_the_word_mosaic(tmp_path, slices, store, enhanced):
    one = enhanced(slices(VOLUME), range(5))
    one.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "MOSAIC"]
    first = store(tmp_path, [one])
    np.testing.assert_array_equal(read_volume(first)[0].numpy(), VOLUME)


@pytest.mark.parametrize(("word", "line"), [("LOCALIZER", "is a localizer"), ("ADC", "computed from scans")])
def test_frame_types_of_enhanced_files_count(tmp_path, slices, store, enhanced, word, line):
    one, frame = enhanced(slices(VOLUME), range(5)), pydicom.Dataset()
    frame.FrameType = ["DERIVED", "PRIMARY", word]
    one.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [frame]
    first = store(tmp_path, [one])
    try:
        said = " ".join(read_header(first).notes)
    except MedsynthError as error:
        said = str(error)
    assert line in said
