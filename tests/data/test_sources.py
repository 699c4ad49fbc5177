from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.sources import find_images, read_header
from medsynth.errors import MedsynthError


def test_images_are_found_once_and_in_order_even_in_a_folder_that_contains_itself(tmp_path):
    for name in ("b/2.nii.gz", "b/1.NII", "a.png", ".hidden/3.nii", "b/._2.nii.gz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == ["a.png", "b/1.NII", "b/2.nii.gz"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MedsynthError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "ILA", "LPS"])
def test_a_header_tells_rows_columns_and_slices_of_the_upright_volume(tmp_path, save, orientation):
    path = save(tmp_path / "v.nii.gz", np.ones((5, 6, 7), np.int16), (1, 2, 3), orientation)
    header = read_header(path)
    assert header.shape == (6, 5, 7)
    assert header.spacing_mm == pytest.approx((2, 1, 3))


def test_a_4d_volume_is_refused_before_it_is_read(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 9), np.int16), np.eye(4)), tmp_path / "bold.nii.gz")
    with pytest.raises(MedsynthError, match=r"is 4D, \(4, 4, 4, 9\): pick a frame with --frame"):
        read_header(tmp_path / "bold.nii.gz")


def test_a_fourth_dimension_of_one_is_none(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    assert read_header(tmp_path / "v.nii.gz").shape == (5, 4, 6)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08\x00 cut"])
def test_damaged_files_get_a_line(tmp_path, content):
    for name in ("a.nii", "b.nii.gz", "c.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MedsynthError, match="truncated or damaged"):
            read_header(tmp_path / name)


def test_colours_in_a_volume_are_refused(tmp_path):
    voxels = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(MedsynthError, match="holds colours"):
        read_header(tmp_path / "rgb.nii.gz")


def test_a_volume_without_voxel_size_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    content = bytearray(image.to_bytes())
    content[296:312] = bytes(16)  # srow_y
    (tmp_path / "flat.nii").write_bytes(content)
    with pytest.raises(MedsynthError, match="without a size"):
        read_header(tmp_path / "flat.nii")


def test_a_picture_tells_rows_columns_and_bits(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "real.tif")
    headers = [read_header(tmp_path / name) for name in ("8.png", "16.png", "real.tif")]
    assert [header.shape for header in headers] == [(4, 6, 1)] * 3
    assert [header.bits for header in headers] == [8, 16, None]


def test_a_picture_of_several_pages_is_refused(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(MedsynthError, match="2 pages"):
        read_header(tmp_path / "stack.tif")


def test_every_flipped_byte_of_a_header_gives_a_header_or_a_line(tmp_path, save):
    content = save(tmp_path / "v.nii", np.ones((5, 6, 7), np.int16)).read_bytes()
    refused = 0
    for place in range(0, 348, 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.nii").write_bytes(damaged)
        try:
            assert min(read_header(tmp_path / "damaged.nii").shape) > 0
        except MedsynthError:
            refused += 1
    assert 0 < refused < 60  # most bytes of a header mean little
