from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medsynth.data.io import itk
from medsynth.data.io.dicom_export import export
from medsynth.errors import MedsynthError

VOLUME = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5)).astype(np.int16)
AFFINE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [0.3, -0.2, 0.1]).as_matrix() * [0.9, 1.2, 2.5], [-40, 7, 9]
)


def opened(folder: Path) -> sitk.Image:
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def test_simpleitk_opens_the_series_with_the_same_voxels_and_geometry(tmp_path):
    export(VOLUME, AFFINE, tmp_path / "series", "ct", "test")
    image = opened(tmp_path / "series")
    np.testing.assert_array_equal(itk.voxels_of(image), VOLUME)
    np.testing.assert_allclose(itk.affine_of(image), AFFINE, atol=1e-4)


@pytest.mark.parametrize("axes", ["LPS", "PSR", "LAS", "RAI", "SLA"])
def test_every_orientation_has_the_same_geometry(tmp_path, axes):
    stored = nib.Nifti1Image(VOLUME, AFFINE).as_reoriented(nib.orientations.axcodes2ornt(axes))
    export(np.asarray(stored.dataobj), stored.affine, tmp_path / "series", "ct", "test")
    grid = itk.image_of(VOLUME, AFFINE)
    back = sitk.Resample(opened(tmp_path / "series"), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(itk.voxels_of(back), VOLUME)


def test_real_numbers_come_back_to_within_16_bits(tmp_path):
    values = np.random.default_rng(0).normal(500, 300, (7, 6, 5)).astype(np.float32)
    export(values, AFFINE, tmp_path / "series", "mri", "test")
    read = itk.voxels_of(opened(tmp_path / "series"))
    np.testing.assert_allclose(read, values, atol=np.ptp(values) / 65000)


def test_a_series_says_that_it_is_synthetic_and_of_no_patient(tmp_path):
    export(VOLUME, AFFINE, tmp_path / "real", "mri", "test")
    originals = sorted((tmp_path / "real").iterdir())
    for path in originals:
        original = pydicom.dcmread(path)
        original.PatientName, original.PatientID, original.StudyDate = "Doe^Jane", "ID-4711", "20200202"
        original.save_as(path)
    export(VOLUME, AFFINE, tmp_path / "made", "ct", "by a network", originals)
    made = [pydicom.dcmread(path) for path in sorted((tmp_path / "made").iterdir())]
    first, source = made[0], pydicom.dcmread(originals[0])
    assert (first.SyntheticData, list(first.ImageType)) == ("YES", ["DERIVED", "SECONDARY"])
    assert first.DerivationDescription == "by a network"
    assert first.SOPClassUID == pydicom.uid.CTImageStorage
    assert all(text not in str(image) for image in made for text in ("Doe", "ID-4711", "20200202"))
    assert first.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert len(first.SourceImageSequence) == len(originals)
    assert first.FrameOfReferenceUID == source.FrameOfReferenceUID
    for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert first[uid].value != source[uid].value
    assert len({image.SOPInstanceUID for image in made}) == VOLUME.shape[2]
    assert len({image.SeriesInstanceUID for image in made}) == 1


def test_a_series_is_overwritten_only_on_request(tmp_path):
    export(VOLUME, AFFINE, tmp_path / "series", "ct", "first")
    with pytest.raises(MedsynthError, match="is there already"):
        export(VOLUME, AFFINE, tmp_path / "series", "ct", "second")
    export(VOLUME[..., :3], AFFINE, tmp_path / "series", "ct", "second", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["series"]
    assert len(list((tmp_path / "series").iterdir())) == 3


def test_a_sheared_grid_is_refused(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 2] += 0.5
    with pytest.raises(MedsynthError, match="not at right angles"):
        export(VOLUME, sheared, tmp_path / "series", "ct", "test")
