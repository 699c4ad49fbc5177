from __future__ import annotations

import csv
import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.io.writing import nifti, safe
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder, in_rows, spread

CT = SliceSpace("ct", (1.5, 2.0), 3.0, (-1000.0, 1000.0))


@pytest.fixture
def fill(tmp_path):
    """Write as many images as asked for, and finish."""

    def write(count: int, overwrite: bool = False) -> ImageFolder:
        folder = ImageFolder(tmp_path / "out", "toy", "abc", overwrite)
        for index in range(count):
            facts = {"Label": "NC", "Index": index, "PSNR": 20.5}
            folder.write(f"NC_{index}", np.zeros((8, 8, 1)), np.eye(4), facts, {"Units": "HU"})
        folder.finish(torch.zeros(count, 1, 8, 8), columns=2)
        return folder

    return write


@pytest.mark.parametrize(
    ("modality", "bounds", "expected", "kind", "units"),
    [
        ("ct", (-1000.0, 1000.0), [-1000, 0, 501, 1000], np.int16, "HU"),
        ("image", (0.0, 255.0), [0, 128, 191, 255], np.uint8, "grey value"),
        ("image", (0.0, 65535.0), [0, 32768, 49184, 65535], np.uint16, "grey value"),
        ("image", (0.0, 1.0), [0, 0.5, 0.7505, 1], np.float32, "grey value"),
        ("mri", (10.0, 30.0), [10, 20, 25.01, 30], np.float32, "arbitrary: as in the input images"),
    ],
)
def test_values_go_back_to_the_inputs_own_scale(modality, bounds, expected, kind, units):
    space = SliceSpace(modality, (1.0, 1.0), 1.0, bounds)
    values = space.to_units(np.array([-1.3, 0.0, 0.501, 1.2], dtype=np.float32))
    assert values.dtype == kind
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert space.units == units


def test_values_without_bounds_are_from_0_to_1_and_say_so():
    space = SliceSpace("ct", (1.0, 1.0), 1.0, None)
    values = space.to_units(np.array([-1.0, 0.0, 1.0], dtype=np.float32))
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert values.dtype == np.float32
    assert space.units.startswith("arbitrary: 0 and 1 ")


def test_every_8_bit_value_survives_the_network_s_scale():
    pixels = np.arange(256, dtype=np.float32)
    space = SliceSpace("image", (1.0, 1.0), 1.0, (0.0, 255.0))
    assert space.to_units(pixels * (2 / 255) - 1).tolist() == list(range(256))


def test_a_slice_lies_upright_around_the_origin():
    affine = CT.affine((5, 3))
    assert nib.aff2axcodes(affine) == ("P", "L", "S")
    np.testing.assert_allclose(affine @ [2, 1, 0, 1], [0, 0, 0, 1])
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [2.0, 3.0, 0, 1])  # first pixel: front, on the patient's right
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), [1.5, 2.0, 3.0])


def test_the_space_survives_model_pt():
    assert SliceSpace(**CT.to_dict()) == CT


def test_a_nifti_has_both_forms_and_millimetres_and_the_same_bytes_again(tmp_path):
    array = np.arange(15, dtype=np.int16).reshape(5, 3, 1)
    content = nifti(array, CT.affine((5, 3)))
    assert content == nifti(array, CT.affine((5, 3)))
    (tmp_path / "a.nii.gz").write_bytes(content)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["sform_code"] == image.header["qform_code"] == 2
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-6)
    assert image.get_data_dtype() == np.int16
    assert b"medsynth" in image.header["descrip"].item()
    np.testing.assert_array_equal(image.get_fdata(), array)


def test_a_sheared_grid_is_stored_in_the_form_that_can_hold_it():
    affine = np.eye(4)
    affine[1, 2] = 0.3
    image = nib.Nifti1Image.from_bytes(gzip.decompress(nifti(np.zeros((4, 4, 4)), affine)))
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.header["qform_code"] == 0


def test_a_folder_has_images_with_sidecars_a_table_and_a_grid(fill, tmp_path):
    fill(2)
    out = tmp_path / "out"
    assert sorted(p.name for p in (out / "images").iterdir()) == [
        f"toy_NC_{index}.{ending}" for index in (0, 1) for ending in ("json", "nii.gz")
    ]
    sidecar = json.loads((out / "images" / "toy_NC_1.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["GeneratedBy"][0]["Name"] == "medsynth"
    assert (sidecar["ModelDigest"], sidecar["Label"], sidecar["Index"], sidecar["Units"]) == ("abc", "NC", 1, "HU")
    rows = list(csv.DictReader((out / "images.csv").open()))
    assert rows[1] == {"file": "images/toy_NC_1.nii.gz", "label": "NC", "index": "1", "psnr": "20.5"}
    assert Image.open(out / "grid.png").size == (22, 12)  # 8 pixels each, 2 around each
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_existing_images_are_refused_before_anything_is_written(fill, tmp_path):
    fill(1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(MedsynthError, match="is there already.*--overwrite true"):
        ImageFolder(tmp_path / "out", "toy", "abc")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_overwriting_removes_earlier_images_and_no_file_of_the_user(fill, tmp_path):
    fill(3)
    (tmp_path / "out" / "images" / "mine.nii.gz").write_text("mine")
    (tmp_path / "out" / "images" / "mine.json").write_text('{"Synthetic": false}')
    fill(1, overwrite=True)
    names = {path.name for path in (tmp_path / "out" / "images").iterdir()}
    assert names == {"toy_NC_0.json", "toy_NC_0.nii.gz", "mine.json", "mine.nii.gz"}
    assert len((tmp_path / "out" / "images.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_png_has_the_pixels_and_bits_of_its_slice(tmp_path, kind):
    pixels = np.linspace(0, np.iinfo(kind).max, 15).astype(kind).reshape(5, 3)
    folder = ImageFolder(tmp_path, "toy", "abc", format="png", modalities=["image"])
    folder.write("NC_0", pixels[..., None], np.eye(4), {"Label": "NC"}, {})
    folder.finish(torch.zeros(1, 1, 8, 8))
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["toy_NC_0.json", "toy_NC_0.png"]
    stored = np.asarray(Image.open(tmp_path / "images/toy_NC_0.png"))
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, pixels)
    assert next(csv.DictReader((tmp_path / "images.csv").open()))["file"] == "images/toy_NC_0.png"


@pytest.mark.parametrize(
    ("shape", "kind", "found"),
    [((8, 8, 2), np.uint8, "8 x 8 x 2 of uint8"), ((8, 8, 1), np.float32, "float32"), ((8, 8, 1), np.int16, "int16")],
)
def test_an_array_that_png_cannot_hold_is_refused_before_an_earlier_image_is_replaced(
    fill, tmp_path, shape, kind, found
):
    fill(1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    folder = ImageFolder(tmp_path / "out", "toy", "abc", overwrite=True, format="png")
    with pytest.raises(MedsynthError, match=f"one slice of uint8 or uint16, and this is .*{found}: leave format out"):
        folder.write("NC_0", np.zeros(shape, kind), np.eye(4), {}, {})
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize(
    ("format", "modalities", "expected"),
    [
        ("jpg", ["image"], "format is 'jpg': choose one of nifti, png"),
        ("png", ["ct", "image"], "for models of pictures .modality image., and this one is of ct: leave format out"),
    ],
)
def test_a_format_that_does_not_fit_the_model_is_refused_at_the_start(tmp_path, format, modalities, expected):
    with pytest.raises(MedsynthError, match=expected):
        ImageFolder(tmp_path, "toy", "abc", format=format, modalities=modalities)


def write_after(folder, *paths, **options):
    """One PNG for each input, named after it."""
    output = ImageFolder(folder, "toy", "abc", format="png", **options)
    output.name_after({str(index): path for index, path in enumerate(paths)})
    for index in range(len(paths)):
        output.write(str(index), np.full((8, 8, 1), index, np.uint8), np.eye(4), {}, {})


def test_a_png_may_keep_the_name_of_its_input_and_nifti_never_does(tmp_path):
    write_after(tmp_path / "out", "in/ct1.png", "in/b.c.nii.gz")
    names = {path.name for path in (tmp_path / "out/images").iterdir()}
    assert names == {"ct1.png", "ct1.json", "b.c.png", "b.c.json"}
    folder = ImageFolder(tmp_path / "nifti", "toy", "abc")
    folder.name_after({"0": "in/ct1.png"})
    folder.write("0", np.zeros((8, 8, 1)), np.eye(4), {}, {})
    assert {path.name for path in folder.images.iterdir()} == {"toy_0.nii.gz", "toy_0.json"}


def test_overwriting_removes_our_png_files_of_any_name_and_no_others(fill, tmp_path):
    images = tmp_path / "out" / "images"
    write_after(tmp_path / "out", "in/ct1.png", "in/ct2.png")
    Image.new("L", (8, 8)).save(images / "mine.png")
    write_after(tmp_path / "out", "in/ct2.png", overwrite=True)
    assert {path.name for path in images.iterdir()} == {"ct2.png", "ct2.json", "mine.png"}
    fill(1, overwrite=True)
    assert {path.name for path in images.iterdir()} == {"toy_NC_0.nii.gz", "toy_NC_0.json", "mine.png"}
    with pytest.raises(MedsynthError, match=r"mine.png is there and was not made by medsynth: give another output_dir"):
        write_after(tmp_path / "out", "in/mine.png", overwrite=True)
    assert (images / "toy_NC_0.nii.gz").exists()


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MedsynthError, match=r"a/1.png and b/1.jpg would both become 1.png: rename one"):
        write_after(tmp_path / "out", "a/1.png", "b/1.jpg")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsynthError, match="cannot write to .*file: it is a file: give another output_dir"):
        ImageFolder(tmp_path / "file" / "out", "toy", "abc")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(MedsynthError, match="no write access is granted: give another output_dir"):
        ImageFolder(tmp_path / "new" / "out", "toy", "abc")


@pytest.mark.parametrize(
    ("name", "expected"), [("AD", "AD"), ("very old", "very-old"), ("../x_y", "x-y"), ("§", "class"), ("1.5", "1.5")]
)
def test_class_names_are_safe_in_file_names(name, expected):
    assert safe(name) == expected


def test_indices_are_spread_from_the_middle():
    assert spread(9, 1) == [4]
    assert spread(8, 2) == [2, 6]
    assert spread(3, 5) == [0, 1, 2]


def test_rows_of_two_sets_take_turns():
    assert in_rows(2, "abcd", "ABCD") == list("abABcdCD")
