from __future__ import annotations

import locale
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from medsynth.data.io import dicom, itk
from medsynth.data.io.sources import Source, files, find_images, read_header, read_volume
from medsynth.errors import MedsynthError

LARGER = np.random.default_rng(0).integers(0, 900, (50, 41, 3)).astype(np.int16)  # what encoders take
VOLUME = np.random.default_rng(0).integers(0, 4000, (7, 9, 5)).astype(np.int16)


def voxels(path: Path | Source) -> np.ndarray:
    return read_volume(path)[0].numpy()


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return itk.voxels_of(image), itk.affine_of(image)


def compress(one: pydicom.Dataset, compressor: str, path: Path) -> None:
    """Write a slice as GDCM does."""
    one.save_as(path, enforce_file_format=True)
    image = sitk.ReadImage(str(path))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    with itk.quiet():
        writer.Execute(image)


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)]
)
def test_a_series_lies_where_simpleitk_says_whatever_the_names_of_its_files(tmp_path, slices, store, orientation):
    series = slices(VOLUME, orientation=orientation)
    store(tmp_path, series[::-1])
    (first,) = find_images(tmp_path)
    values, affine = by_simpleitk(tmp_path)
    np.testing.assert_array_equal(voxels(first), VOLUME)
    np.testing.assert_array_equal(values, VOLUME)
    np.testing.assert_allclose(read_volume(first).affine, affine, atol=1e-4)
    np.testing.assert_allclose(read_header(first).affine, affine, atol=1e-4)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_transfer_syntaxes_of_pydicom_give_the_same_voxels(tmp_path, slices, store, syntax):
    series = slices(LARGER)
    for one in series:
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
        if syntax.is_compressed:
            one.compress(syntax)
    np.testing.assert_array_equal(voxels(store(tmp_path, series)), LARGER)


def test_big_endian_gives_the_same_voxels(tmp_path, slices, store):
    series = slices(LARGER)
    for one in series:
        one["PixelData"].value = one.pixel_array.astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_array_equal(voxels(store(tmp_path, series)), LARGER)


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", "1.2.840.10008.1.2.4.70"), ("JPEG2000", "1.2.840.10008.1.2.4.90")]
)
def test_transfer_syntaxes_of_gdcm_give_the_same_voxels(tmp_path, slices, compressor, syntax):
    for index, one in enumerate(slices(LARGER)):
        compress(one, compressor, tmp_path / f"{index}.dcm")
    (first,) = find_images(tmp_path)
    assert pydicom.dcmread(first).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(voxels(first), LARGER)


def test_reading_leaves_the_locale_as_it_was(tmp_path, slices):
    for index, one in enumerate(slices(LARGER)):
        compress(one, "JPEG", tmp_path / f"{index}.dcm")
    before = locale.setlocale(locale.LC_ALL)
    voxels(find_images(tmp_path)[0])
    assert locale.setlocale(locale.LC_ALL) == before


def test_each_slice_has_its_own_rescale(tmp_path, slices, store):
    series = slices(VOLUME)
    for index, one in enumerate(series):
        one.RescaleSlope, one.RescaleIntercept = 1 + 0.5 * index, -index
    np.testing.assert_array_equal(voxels(store(tmp_path, series)), VOLUME * (1 + 0.5 * np.arange(5)) - np.arange(5))


def test_hounsfield_units_are_signed(tmp_path, slices, store):
    first = store(tmp_path, slices(VOLUME, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024))
    assert voxels(first).min() == VOLUME.min() - 1024


def test_white_as_the_lowest_value_is_inverted_and_noted(tmp_path, slices, store):
    first = store(
        tmp_path, slices((65535 - VOLUME.astype(int)), PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0)
    )
    np.testing.assert_array_equal(voxels(first), VOLUME)
    assert "MONOCHROME1" in read_header(first).notes[0]


def test_series_in_one_folder_are_separate_images_and_stray_files_are_left_out(tmp_path, slices, store):
    store(tmp_path, slices(VOLUME), "a{}.dcm")
    store(tmp_path, slices(VOLUME + 1), "b{}")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "README").write_text("none")
    first, second = find_images(tmp_path)
    assert [path.name for path in files(first)] == [f"a{i}.dcm" for i in range(5)]
    assert [path.name for path in files(second)] == [f"b{i}" for i in range(5)]
    np.testing.assert_array_equal(voxels(second), VOLUME + 1)


def test_frames_of_an_enhanced_file_are_put_in_order(tmp_path, slices, store, enhanced):
    series = slices(VOLUME)
    expected = read_header(store(tmp_path / "single", series)).affine
    first = store(tmp_path / "enhanced", [enhanced(series, [2, 0, 4, 1, 3])])
    np.testing.assert_array_equal(voxels(first), VOLUME)
    np.testing.assert_allclose(read_header(first).affine, expected, atol=1e-6)


def test_a_frame_of_a_4d_series_has_to_be_picked(tmp_path, slices, store, enhanced):
    first = store(tmp_path, [enhanced(slices(VOLUME), [0, 1, 2, 3, 4, 4, 3, 2, 1, 0])])
    with pytest.raises(MedsynthError, match=r"is 4D, \(7, 9, 5, 2\): pick a frame with --frame \(0 to 1\)"):
        read_header(first)
    np.testing.assert_array_equal(voxels(Source(str(first), 1)), VOLUME)
    with pytest.raises(MedsynthError, match="has no frame 2"):
        read_volume(Source(str(first), 2))


def test_a_tilted_gantry_is_resampled_to_a_straight_grid(tmp_path, slices, store):
    ramp = np.fromfunction(lambda x, y, z: 100 * y + 30 * z, (6, 20, 9)).astype(np.int16)
    tilted = slices(ramp, (1, 1, 1), (1, 0, 0, 0, 1, 0), (0, 0.5, 2.0))  # the value at (x, y, z) mm is 100 y - 10 z
    first = store(tmp_path, tilted)
    header, image = read_header(first), read_volume(first)
    assert "14.0 degrees" in header.notes[0]
    assert image.shape == (1, 6, 24, 9)
    np.testing.assert_allclose(header.affine, image.affine)
    np.testing.assert_allclose(header.affine[:3, :3], np.diag([-1, -1, 2]), atol=1e-6)
    inside = image[0, 3, 4:18, :].numpy()
    expected = np.fromfunction(lambda y, z: 100 * (y + 4) - 20 * z, inside.shape)
    np.testing.assert_allclose(inside, np.where(expected < 0, inside, expected), atol=0.01)


def turned_by(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3), a rotation by degrees about x, then y, then z."""
    (a, b, c), (d, e, f) = np.cos(np.radians([x, y, z])), np.sin(np.radians([x, y, z]))
    about = [[1, 0, 0], [0, a, -d], [0, d, a]], [[b, 0, e], [0, 1, 0], [-e, 0, b]], [[c, -f, 0], [f, c, 0], [0, 0, 1]]
    return np.array(about[2]) @ about[1] @ about[0]


@pytest.mark.parametrize(("decimals", "most"), [(2, 0.1), (3, 0.01), (6, 1e-4)])
@pytest.mark.parametrize("degrees", [(12, 7, -5), (-30, 14, 12), (8, 18, 3)])
def test_rounded_directions_become_unit_vectors_at_right_angles(tmp_path, slices, store, degrees, decimals, most):
    true = turned_by(*degrees)
    series = slices(VOLUME, (2, 2, 3), tuple(true[:, :2].T.ravel()))
    for one in series:
        one.ImageOrientationPatient = [round(float(x), decimals) for x in one.ImageOrientationPatient]
    header = read_header(store(tmp_path, series))
    assert header.notes == ()
    directions = header.affine[:3, :3] / np.linalg.norm(header.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=2e-6)
    ends = np.diag([6, 8, 4])
    expected = itk.LPS_TO_RAS[:3, :3] @ true @ np.diag([2, 2, 3])
    assert np.abs((header.affine[:3, :3] - expected) @ ends).max() < most * 2


@pytest.mark.parametrize(
    ("orientation", "line"),
    [((1, 0, 0, 0.1, 0.99, 0), "have no position"), ((1, 0, 0, 0.0171234, 0.9998534, 0), "have no position")],
)
def test_sheared_directions_are_refused(tmp_path, slices, store, orientation, line):
    series = slices(VOLUME)
    for one in series:
        one.ImageOrientationPatient = list(orientation)
    with pytest.raises(MedsynthError, match=line):
        read_header(store(tmp_path, series))


def test_a_tilted_gantry_with_rounded_directions_is_still_tilted(tmp_path, slices, store):
    true = turned_by(12, 7, -5)
    step = 2 * true[:, 2] + 0.2 * true[:, 1]
    series = slices(VOLUME, (2, 2, 2), tuple(true[:, :2].T.ravel()), step)
    for one in series:
        one.ImageOrientationPatient = [round(float(x), 3) for x in one.ImageOrientationPatient]
    assert "tilted gantry (5.7 degrees)" in read_header(store(tmp_path, series)).notes[0]


@pytest.mark.parametrize("uid", ["1.2.3", "", None])
def test_positions_decide_where_uids_say_nothing(tmp_path, slices, store, uid):
    series = slices(VOLUME)
    for one in series:
        if uid is None:
            del one.SOPInstanceUID
        else:
            one.SOPInstanceUID = uid
    first = store(tmp_path / "series", series[::-1])
    np.testing.assert_array_equal(voxels(first), VOLUME)
    (path,) = find_images(tmp_path)
    assert len(files(path)) == 5
    store(tmp_path / "copied", [*series, series[2]])
    with pytest.raises(MedsynthError, match=r"duplicate slices in its series of 6: 02\.dcm and 05\.dcm"):
        read_header(tmp_path / "copied" / "00.dcm")
    store(tmp_path / "twice", [*series, *series])
    with pytest.raises(MedsynthError, match=r"is 4D, \(7, 9, 5, 2\)"):
        read_header(tmp_path / "twice" / "00.dcm")


def test_a_series_that_lies_there_twice_is_told(tmp_path, slices, store):
    series = slices(VOLUME)
    first = store(tmp_path, [*series, *series])
    with pytest.raises(MedsynthError, match=r"duplicate slices in its series of 10"):
        read_header(first)


def without(series: list, *gone: int) -> list:
    return [one for index, one in enumerate(series) if index not in gone]


def turned(series: list) -> list:
    for one in series[3:]:
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return series


def moved(series: list) -> list:
    series[2].ImagePositionPatient = (np.array(series[2].ImagePositionPatient) + [0.3, -0.4, 0]).tolist()
    return series


def copied(series: list) -> list:
    return [*series, series[2]]


def without_position(series: list) -> list:
    del series[1].ImagePositionPatient
    return series


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda series: without(series, 2), r"1 missing slices in 1 gaps of its series of 4.*01\.dcm and 02\.dcm"),
        (lambda series: without(series, 1, 2), r"2 missing slices in 1 gaps"),
        (copied, r"duplicate slices in its series of 6: 02\.dcm and 05\.dcm"),
        (turned, r"mixed orientations: 2 lie differently"),
        (moved, r"varying spacing: its slices lie 2\.5 to 3\.5 mm apart"),
        (without_position, r"1 of 5 images have no position in the patient.*01\.dcm"),
    ],
)
def test_a_wrong_series_is_refused_with_the_reason_before_it_is_read(tmp_path, slices, store, spoil, line):
    store(tmp_path, spoil(slices(VOLUME)))
    (first,) = find_images(tmp_path)
    with pytest.raises(MedsynthError, match=line):
        read_header(first)


@pytest.mark.parametrize(
    ("tags", "line"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        ({"SeriesDescription": "AAHead_Scout_32ch"}, "is a localizer"),
        ({"SamplesPerPixel": 3}, "holds colours"),
        ({"PixelSpacing": [0, 1]}, "pixel spacing is missing or zero"),
        ({"Rows": 0}, "without an image"),
        ({"Modality": "CT", "PhotometricInterpretation": "MONOCHROME1"}, "Hounsfield units need MONOCHROME2"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "have no position in the patient"),
        ({"NumberOfFrames": 4}, "holds 4 frames and has positions of 1"),
    ],
)
def test_series_that_are_not_volumes_are_refused(tmp_path, slices, store, tags, line):
    with pytest.raises(MedsynthError, match=line):
        read_header(store(tmp_path, slices(VOLUME, **tags)))


def test_a_truncated_slice_is_named(tmp_path, slices, store):
    first = store(tmp_path, slices(VOLUME))
    (tmp_path / "03.dcm").write_bytes((tmp_path / "03.dcm").read_bytes()[:-9])
    with pytest.raises(MedsynthError, match=r"03\.dcm cannot be read, it seems truncated"):
        read_volume(first)


def test_a_truncated_compressed_slice_is_named_without_gdcm(tmp_path, slices, monkeypatch):
    for index, one in enumerate(slices(LARGER)):
        compress(one, "JPEG2000", tmp_path / f"{index}.dcm")
    (tmp_path / "1.dcm").write_bytes((tmp_path / "1.dcm").read_bytes()[:-12])
    monkeypatch.setattr(dicom, "_voxels", None)
    with pytest.raises(MedsynthError, match=r"1\.dcm cannot be read, it seems truncated"):
        read_volume(tmp_path / "0.dcm")


def test_a_slice_that_is_replaced_is_read_anew(tmp_path, slices, store):
    series = slices(VOLUME)
    first = store(tmp_path, series)
    assert read_header(first).spacing_mm[2] == 2
    for one in series:
        one.PixelSpacing = [2.5, 1.5]
    assert read_header(store(tmp_path, series)).spacing_mm[2] == 2.5


def test_a_patient_is_named_by_a_hash_only(tmp_path, slices, store):
    name = dicom.subject_of(store(tmp_path, slices(VOLUME)))
    assert name.startswith("patient-")
    assert "4711" not in name
