"""Files that are something else than their names say are refused with the cause and the cure."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from medsynth.data.io.sources import find_images, read_header, read_volume
from medsynth.errors import MedsynthError

VOLUME = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
PLAIN = nib.Nifti1Image(VOLUME, np.eye(4)).to_bytes()
NEWER = nib.Nifti2Image(VOLUME, np.eye(4)).to_bytes()
PACKED = gzip.compress(PLAIN)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.nii", PACKED, "packed with gzip, and its name says that it is not: rename it to a.nii.gz"),
        ("a.mha", PACKED, "packed with gzip, and its name says that it is not: unpack it with gunzip"),
        ("a.nii.gz", PLAIN, "not packed with gzip, as its name says: rename it to a.nii"),
        ("a.nii.gz", NEWER, "not packed with gzip, as its name says: rename it to a.nii"),
        ("a.nii.gz", nib.AnalyzeImage(VOLUME, np.eye(4)).header.binaryblock, "rename it to a.nii"),
        ("a.nii.gz", gzip.compress(PACKED), "packed with gzip twice: unpack it once"),
        ("a.nii.gz", b"PK\3\4" + bytes(99), "a ZIP archive: unpack it"),
        ("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.nii", b"<!DOCTYPE html><html>", "a web page"),
        ("a.nii", bytes(128) + b"DICM" + bytes(500), "a DICOM file: rename it to a.dcm"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_with_the_cure(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    for read in (read_header, read_volume):
        with pytest.raises(MedsynthError, match="^is ") as error:
            read(tmp_path / name)
        assert line in str(error.value)
        assert "\n" not in str(error.value)


def test_half_a_packed_pair_is_refused_with_the_cure(tmp_path):
    nib.save(nib.Nifti1Pair(VOLUME, np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
    with pytest.raises(MedsynthError, match="unpack it with gunzip"):
        read_header(tmp_path / "a.hdr")


@pytest.fixture
def disc(tmp_path, slices, store) -> Path:
    """A folder with a DICOMDIR and the series that it names."""
    store(tmp_path / "series", slices(VOLUME))
    contents = FileSet()
    for path in (tmp_path / "series").iterdir():
        image = pydicom.dcmread(path)
        image.StudyDate, image.StudyTime, image.StudyID, image.SeriesNumber = "20010203", "101112", "1", "1"
        image.StudyInstanceUID = "1.2.3"
        contents.add(image)
    contents.write(tmp_path / "disc")
    return tmp_path / "disc"


def test_a_dicomdir_is_no_image_of_its_folder(disc):
    (image,) = find_images(disc)
    assert image.name != "DICOMDIR"
    assert sorted(read_header(image).shape) == [3, 4, 5]


def test_a_dicomdir_given_as_a_file_is_refused_with_its_folder(disc):
    with pytest.raises(MedsynthError, match=f"is a DICOMDIR, the table of contents of a disc: give its folder, {disc}"):
        find_images(disc / "DICOMDIR")
    with pytest.raises(MedsynthError, match="is a DICOMDIR, .* give the folder"):
        read_header(disc / "DICOMDIR")


def test_a_folder_with_only_a_dicomdir_is_told_what_it_lacks(disc, tmp_path):
    (tmp_path / "alone").mkdir()
    (disc / "DICOMDIR").rename(tmp_path / "alone" / "CONTENTS")
    with pytest.raises(MedsynthError, match="none of the images that it names lies beside it: copy the whole disc"):
        find_images(tmp_path / "alone")
