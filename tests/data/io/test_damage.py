"""Whatever is done to a file, reading gives the right voxels or one clear line."""

from __future__ import annotations

import gzip
import os
import random
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medsynth.data.datalist.layout import survey
from medsynth.data.io import itk
from medsynth.data.io.sources import files, find_images, is_picture, read_header, read_volume
from medsynth.errors import MedsynthError

RAMP = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])
KINDS = (
    "v.nii",
    "v.nii.gz",
    "v.hdr",
    "raw.nrrd",
    "packed.nrrd",
    "raw.mha",
    "packed.mha",
    "v.mhd",
    "series",
    "p.png",
    "p.tif",
)
MOST_BYTES = 100 * 2**20  # that reading a damaged file may add to the memory of the process
OFFSETS = st.floats(0, 1, exclude_max=True)  # in a file, as a share of its length
PATIENT = (b"Doe", b"4711", b"20010203")
quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def undamaged(tmp_path: Path, slices: Callable, store: Callable) -> Callable[[str], Path]:
    """Make an image of a kind in a folder of its own; returns the file that names it."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        path = folder / kind
        if kind == "series":
            return store(folder, slices(RAMP, (2, 2, 3), (1, 0, 0, 0, 1, 0)))
        if is_picture(path):
            Image.fromarray(RAMP[..., 0].astype(np.uint8)).save(path)
        elif path.suffix in (".nii", ".gz", ".hdr"):
            nib.save((nib.AnalyzeImage if kind == "v.hdr" else nib.Nifti1Image)(RAMP, AFFINE), path)
        else:
            sitk.WriteImage(itk.image_of(RAMP, AFFINE), str(path), useCompression=kind.startswith("packed"))
        return path

    return make


def outcome(path: Path) -> np.ndarray | str:
    """The voxels, or the line that says why there are none."""
    try:
        header = read_header(path)
        if is_picture(path):
            return "picture"
        volume = read_volume(path)
    except MedsynthError as error:
        line = str(error)
        assert line
        assert len(line.splitlines()) == 1
        assert len(line) < 600
        assert not any(word.decode() in line for word in PATIENT)
        return line
    assert np.sort(header.shape).tolist() == np.sort(volume.shape[1:]).tolist()
    np.testing.assert_allclose(header.affine, volume.affine)
    return volume[0].numpy()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not is_picture(kind)])
@quick
@given(which=st.integers(0, 1), offset=OFFSETS)
def test_a_file_truncated_anywhere_is_refused_in_one_line(undamaged, kind, which, offset):
    path = undamaged(kind)
    victim = files(path)[:2][which - 1]
    content = victim.read_bytes().rstrip(b"\n")  # a text header is complete without its last line end
    victim.write_bytes(content[: int(offset * len(content))])
    for one in find_images(path.parent) or [path]:
        found = outcome(one)
        if isinstance(found, np.ndarray):  # of a series, the whole slices that are left
            assert kind == "series"
            assert found.shape == (12, 10, 7)


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(which=st.integers(0, 1), flips=st.lists(st.tuples(OFFSETS, st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_give_an_image_or_one_line(undamaged, kind, which, flips):
    path = undamaged(kind)
    victim = files(path)[:2][which - 1]
    content = bytearray(victim.read_bytes())
    for offset, bit in flips:
        content[int(offset * len(content))] ^= 1 << bit
    victim.write_bytes(content)
    for one in find_images(path.parent):
        outcome(one)


@pytest.mark.parametrize("kind", ["v.nii.gz", "packed.nrrd", "packed.mha"])
@quick
@given(offset=OFFSETS, bit=st.integers(0, 7))
def test_no_flipped_bit_of_packed_voxels_goes_unnoticed(undamaged, kind, offset, bit):
    path = undamaged(kind)
    content = bytearray(path.read_bytes())
    start = 10 if kind == "v.nii.gz" else len(itk._text(path)) + (10 if kind == "packed.nrrd" else 2)
    content[start + int(offset * (len(content) - start))] ^= 1 << bit
    path.write_bytes(content)
    assert isinstance(found := outcome(path), str) or np.array_equal(found, RAMP)


@pytest.mark.parametrize("kind", ["v.nii", "v.nii.gz", "raw.nrrd", "packed.nrrd", "raw.mha", "packed.mha", "v.mhd"])
@pytest.mark.parametrize("shape", [(6, 10, 8), (12, 10, 9), (0, 10, 8), (-1, 10, 8), (30000, 30000, 30000)])
def test_wrong_dimensions_are_refused(undamaged, kind, shape):
    path = undamaged(kind)
    is_nifti = kind.startswith("v.nii")
    content = gzip.decompress(path.read_bytes()) if kind == "v.nii.gz" else path.read_bytes()
    if is_nifti:
        content = content[:42] + np.array(shape, "<i2").tobytes() + content[48:]
    else:
        content = content.replace(b"12 10 8", " ".join(map(str, shape)).encode())
    path.write_bytes(gzip.compress(content) if kind == "v.nii.gz" else content)
    assert isinstance(outcome(path), str)


def added_memory() -> Callable[[], int]:
    """A function that returns by how many bytes the peak memory of this process has grown."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def bomb(path: Path, head: bytes, zeros: int) -> Path:
    """A small file that unpacks to many zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(zeros // 2**22):
            file.write(bytes(2**22))
    return path


def test_bombs_are_not_unpacked(tmp_path):
    honest = nib.Nifti1Image(RAMP, AFFINE).to_bytes()
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    grown = added_memory()
    assert "unpacks to less or more" in outcome(bomb(tmp_path / "more.nii.gz", honest, 2**27))
    assert "declares 32,000,000,352" in outcome(bomb(tmp_path / "large.nii.gz", header.binaryblock + bytes(4), 2**27))
    header["vox_offset"] = 2**31
    assert "begin far behind" in outcome(bomb(tmp_path / "header.nii.gz", header.binaryblock + b"\1\0\0\0", 2**27))
    assert grown() < MOST_BYTES


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.mhd", "v.dcm", "v.nii", "v.hdr", "v.png"])
@pytest.mark.parametrize("start", [b"NRRD0004\n# ", b"ObjectType = Image\nComment = ", bytes(128) + b"DICM", b""])
def test_endless_headers_are_not_read_on(tmp_path, name, start):
    with (tmp_path / name).open("wb") as file:
        file.write(start)
        file.truncate(2**33)  # of which the disk holds nothing
    grown = added_memory()
    assert isinstance(outcome(tmp_path / name), str)
    assert grown() < MOST_BYTES


def test_a_picture_of_a_terabyte_is_refused(tmp_path, undamaged):
    content = undamaged("p.png").read_bytes()
    chunk = b"IHDR" + (2**19).to_bytes(4, "big") * 2 + content[24:29]
    path = tmp_path / "large.png"
    path.write_bytes(content[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + content[33:])
    assert outcome(path) != "picture"


def test_devices_loops_and_unreadable_files_are_refused_in_one_line(tmp_path, undamaged):
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    os.mkfifo(tmp_path / "pipe.dcm")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "v.mhd").write_text(
        "NDims = 3\nDimSize = 9 9 9\nElementType = MET_SHORT\nElementDataFile = /dev/zero\n"
    )
    for name in ("zero.nii", "loop.nii", "pipe.dcm", "pipe.nii.gz", "folder.nii", "v.mhd", "nothing.nii.gz"):
        assert isinstance(outcome(tmp_path / name), str)
    locked = undamaged("v.nii.gz")
    locked.chmod(0)
    assert os.access(locked, os.R_OK) or "may not be read" in outcome(locked)
    find_images(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda header: (header.set_sform(None, 0), header.set_zooms((0, 2, 3))), "without a size"),
        (lambda header: header.__setitem__("srow_y", [0, 0, 0, 0]), "without a size"),
        (lambda header: header.__setitem__("srow_x", [np.nan, 0, 0, 0]), "not finite"),
        (lambda header: header.__setitem__("srow_x", [3e5, 0, 0, 0]), "voxels of 3e"),
    ],
)
def test_an_impossible_geometry_is_refused_in_one_line(tmp_path, spoil, line):
    image = nib.Nifti1Image(RAMP, AFFINE)
    image.set_qform(None, 0)
    content = image.to_bytes()
    image.header["vox_offset"] = 352
    spoil(image.header)
    (tmp_path / "v.nii").write_bytes(image.header.binaryblock + content[348:])
    with pytest.raises(MedsynthError, match=line):
        read_header(tmp_path / "v.nii")


def test_a_folder_of_damage_is_listed_file_by_file(undamaged, tmp_path):
    random.seed(0)
    good = undamaged("v.nii.gz")
    content = good.read_bytes()
    for number in range(20):
        (good.parent / f"bad {number} ü.nii.gz").write_bytes(content[: random.randrange(200)])
    found = survey(good.parent)
    assert [entry["image"] for entry in found.entries] == [str(good)]
    assert len(found.left_out) == 20


def test_a_geometry_that_is_not_numbers_is_refused(undamaged):
    path = undamaged("raw.mha")
    path.write_bytes(path.read_bytes().replace(b"Offset = 0 0", b"Offset = 0!0"))
    assert "are not numbers" in outcome(path)
