from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from medsynth.data.io import itk
from medsynth.data.io.sources import Source, files, find_images, read_exact, read_header, read_volume
from medsynth.errors import MedsynthError


def test_images_are_found_once_and_in_order_even_in_a_folder_that_contains_itself(tmp_path):
    for name in ("b/2.nii.gz", "b/1.NII", "a.png", ".hidden/3.nii", "b/._2.nii.gz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == ["a.png", "b/1.NII", "b/2.nii.gz"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MedsynthError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "ILA", "LPS"])
def test_a_header_has_rows_columns_and_slices_of_the_upright_volume(tmp_path, save, orientation):
    path = save(tmp_path / "v.nii.gz", np.ones((5, 6, 7), np.int16), (1, 2, 3), orientation)
    header = read_header(path)
    assert header.shape == (6, 5, 7)
    assert header.spacing_mm == pytest.approx((2, 1, 3))


@pytest.mark.parametrize(("slope", "kind"), [(5.176470756530762, np.float64), (None, np.float32)])
def test_scaled_integers_are_read_exactly(tmp_path, slope, kind):
    image = nib.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(slope, None if slope is None else 0)
    nib.save(image, tmp_path / "v.nii.gz")
    values, affine = read_exact(tmp_path / "v.nii.gz")
    assert values.dtype == kind
    np.testing.assert_array_equal(values, nib.load(tmp_path / "v.nii.gz").get_fdata())
    np.testing.assert_array_equal(affine, np.eye(4))


def test_a_4d_volume_is_refused_before_it_is_read(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 9), np.int16), np.eye(4)), tmp_path / "bold.nii.gz")
    with pytest.raises(MedsynthError, match=r"is 4D, \(4, 4, 4, 9\): pick a frame with --frame"):
        read_header(tmp_path / "bold.nii.gz")


def test_a_fourth_dimension_of_one_is_ignored(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    assert read_header(tmp_path / "v.nii.gz").shape == (5, 4, 6)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08\x00 cut"])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    for name in ("a.nii", "b.nii.gz", "c.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MedsynthError, match="truncated or damaged"):
            read_header(tmp_path / name)


def test_a_volume_cut_in_its_packed_voxels_is_refused_by_its_header_already(tmp_path, save):
    whole = save(tmp_path / "whole.nii.gz", np.random.default_rng(0).random((9, 8, 7))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(MedsynthError, match="truncated or damaged"):
        read_header(tmp_path / "cut.nii.gz")


def test_a_volume_packed_in_several_parts_is_whole(tmp_path, save):
    content = gzip.decompress(save(tmp_path / "whole.nii.gz", np.random.default_rng(0).random((9, 8, 7))).read_bytes())
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    assert read_header(tmp_path / "parts.nii.gz").shape == read_header(tmp_path / "whole.nii.gz").shape


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


def test_a_picture_s_header_has_rows_columns_and_bits(tmp_path):
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


def test_every_flipped_byte_of_a_header_gives_a_header_or_one_line(tmp_path, save):
    content = save(tmp_path / "v.nii", np.ones((5, 6, 7), np.int16)).read_bytes()
    refused = 0
    for offset in range(0, 348, 3):
        damaged = bytearray(content)
        damaged[offset] ^= 0xFF
        (tmp_path / "damaged.nii").write_bytes(damaged)
        try:
            assert min(read_header(tmp_path / "damaged.nii").shape) > 0
        except MedsynthError:
            refused += 1
    assert 0 < refused < 60  # most bytes of a header mean little


RAMP = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-1.5, 2.0, 2.5]), [11.0, -22.0, 33.0]
)


def values(path: Path | Source) -> np.ndarray:
    return read_volume(path)[0].numpy()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr"])
def test_nifti_of_all_kinds_is_read_as_nibabel_does(tmp_path, kind, ending):
    pair = {nib.Nifti1Image: nib.Nifti1Pair, nib.Nifti2Image: nib.Nifti2Pair}
    image = (pair[kind] if ending == ".hdr" else kind)(RAMP, OBLIQUE)
    nib.save(image, tmp_path / f"v{ending}")
    (path,) = find_images(tmp_path)
    volume = read_volume(path)
    assert volume.shape == (1, 5, 6, 7)
    assert volume.dtype == torch.float32
    np.testing.assert_array_equal(volume[0], RAMP)
    np.testing.assert_allclose(volume.affine, nib.load(path).affine)
    np.testing.assert_allclose(read_header(path).affine, OBLIQUE, atol=1e-4)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_itk_files_lie_where_their_nifti_lies(tmp_path, ending, packed):
    nib.save(nib.Nifti1Image(RAMP, OBLIQUE), tmp_path / "v.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "v.nii.gz")), str(tmp_path / f"v{ending}"), useCompression=packed)
    path = next(path for path in find_images(tmp_path) if path.suffix == ending)
    np.testing.assert_array_equal(values(path), RAMP)
    np.testing.assert_allclose(read_volume(path).affine, OBLIQUE, atol=1e-4)
    assert len(files(path)) == (2 if ending in (".nhdr", ".mhd") else 1)


def test_scaled_integers_are_unscaled(tmp_path):
    content = bytearray(nib.Nifti1Image(RAMP, np.eye(4)).to_bytes())
    content[112:120] = np.array([0.5, -3], "<f4").tobytes()
    (tmp_path / "v.nii").write_bytes(content)
    np.testing.assert_array_equal(values(tmp_path / "v.nii"), RAMP * 0.5 - 3)


def test_coordinates_in_metres_become_mm_with_a_note(tmp_path):
    image = nib.Nifti1Image(RAMP, np.diag([0.002, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "v.nii.gz")
    header = read_header(tmp_path / "v.nii.gz")
    assert header.spacing_mm == pytest.approx((2, 2, 3))
    assert "units of a meter" in header.notes[0]


def test_of_an_sform_and_a_qform_that_disagree_the_sform_is_taken_with_a_note(tmp_path):
    image = nib.Nifti1Image(RAMP, np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([2.0, 2, 3, 1]), 1)
    nib.save(image, tmp_path / "v.nii")
    header = read_header(tmp_path / "v.nii")
    assert header.spacing_mm == pytest.approx((2, 2, 2))
    assert header.notes == ("has an sform and a qform that disagree by up to 6 mm: the sform was taken",)


def analyze(path: Path, orient: int) -> Path:
    nib.save(nib.AnalyzeImage(RAMP, np.diag([-1.0, 2, 3, 1])), path)
    content = bytearray(path.read_bytes())
    content[252] = orient
    path.write_bytes(content)
    return path


def test_analyze_without_orientation_is_read_as_nibabel_does_with_a_note(tmp_path):
    path = analyze(tmp_path / "v.hdr", 0)
    assert find_images(tmp_path) == [path]
    assert files(path) == files(tmp_path / "v.img") == [path, tmp_path / "v.img"]
    np.testing.assert_array_equal(values(path), RAMP)
    np.testing.assert_allclose(read_header(path).affine, nib.load(path).affine)
    assert "does not define left and right" in read_header(path).notes[0]


def test_sagittal_analyze_as_of_oasis_is_upright_with_a_note(tmp_path):
    header = read_header(analyze(tmp_path / "v.hdr", 2))
    assert nib.aff2axcodes(header.affine) == ("A", "S", "L")
    assert header.shape == (5, 7, 6)
    assert header.spacing_mm == (1, 3, 2)
    assert "orient 2" in header.notes[0]


def test_half_a_pair_is_named(tmp_path):
    analyze(tmp_path / "v.hdr", 0)
    (tmp_path / "v.img").unlink()
    with pytest.raises(MedsynthError, match=r"lacks its other file, v\.img"):
        read_header(tmp_path / "v.hdr")


def test_a_frame_is_read_alone(tmp_path):
    frames = np.stack([RAMP, RAMP + 1, RAMP + 2], -1)
    nib.save(nib.Nifti1Image(frames, np.eye(4)), tmp_path / "v.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "v.nii.gz")), str(tmp_path / "v.nrrd"))
    for name in ("v.nii.gz", "v.nrrd"):
        np.testing.assert_array_equal(values(Source(str(tmp_path / name), 2)), RAMP + 2)
        assert read_header(Source(str(tmp_path / name), 2)).frames == 3
        with pytest.raises(MedsynthError, match=r"has no frame 3: pick one from 0 to 2"):
            read_volume(Source(str(tmp_path / name), 3))


def test_names_with_spaces_and_unicode_are_read(tmp_path, save, slices, store):
    for name in ("ein Kopf.nii.gz", "頭部 ü.nii"):
        np.testing.assert_array_equal(values(save(tmp_path / name, RAMP)), RAMP)
    np.testing.assert_array_equal(values(store(tmp_path / "頭 部ü", slices(RAMP))), RAMP)
    for name in ("頭 ü.nrrd", "頭 ü.mhd"):
        sitk.WriteImage(itk.image_of(RAMP, np.eye(4)), str(tmp_path / name))
        np.testing.assert_array_equal(values(tmp_path / name), RAMP)
