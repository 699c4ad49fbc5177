from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing, volume_transforms
from medsynth.errors import MedsynthError

MRI = Preprocessing("mri", (0, 400), None, 40)


def prepared(path, preprocessing):
    return volume_transforms(preprocessing)({"source": Source(str(path))})


@pytest.fixture
def marked():
    """A block of 100, right-anterior-superior, with one of 400 at its right, its front and its top."""
    volume = np.zeros((30, 34, 38), np.int16)
    volume[4:26, 4:30, 4:34] = 100
    volume[20:24, 22:26, 26:30] = 400
    return volume


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "LAI", "SLP"])
@pytest.mark.parametrize("plane", PLANES)
def test_each_plane_is_upright_as_a_radiologist_sees_it(tmp_path, save, marked, plane, orientation):
    path = save(tmp_path / "v.nii.gz", marked, orientation=orientation)
    data = prepared(path, replace(MRI, plane=plane))
    slices, rows, columns = np.nonzero((data["image"] > 0.99).numpy())
    assert rows.size == 64
    assert rows.max() < 20  # front up in axial slices, else the top
    assert columns.max() < 20  # the patient's right on the left, or the face to the left
    assert data["positions"][slices].min() > 0.5  # upper, front or right half


@pytest.mark.parametrize("plane", PLANES)
def test_the_affine_takes_a_slice_back_to_where_it_was(tmp_path, save, marked, plane):
    path = save(tmp_path / "v.nii.gz", marked, (2, 2, 2), "PSR")
    data = prepared(path, replace(MRI, plane=plane))
    slices, rows, columns = np.nonzero((data["image"] > 0.99).numpy())
    corners = nib.affines.apply_affine(data["affine"], np.stack([rows, columns, data["slices"][slices]], 1))
    np.testing.assert_allclose(corners.min(0), (40, 44, 52), atol=1e-6)
    np.testing.assert_allclose(corners.max(0), (46, 50, 58), atol=1e-6)


@pytest.mark.parametrize(("plane", "count"), [("coronal", 26), ("sagittal", 22)])
def test_positions_go_from_end_to_end_of_the_head(tmp_path, save, marked, plane, count):
    positions = prepared(save(tmp_path / "v.nii.gz", marked), replace(MRI, plane=plane))["positions"]
    np.testing.assert_allclose(positions, np.linspace(0, 1, count))


@pytest.mark.parametrize("plane", PLANES)
def test_a_range_of_positions_leaves_the_other_slices_out(tmp_path, save, marked, plane):
    path = save(tmp_path / "v.nii.gz", marked, (5, 5, 5))
    every = prepared(path, replace(MRI, plane=plane))
    some = prepared(path, replace(MRI, plane=plane, positions=(0.4, 0.7)))
    inside = (every["positions"] >= 0.4) & (every["positions"] <= 0.7)
    assert 0 < inside.sum() < len(inside)
    assert torch.equal(some["image"], every["image"][torch.from_numpy(inside)])
    np.testing.assert_array_equal(some["slices"], every["slices"][inside])


def test_a_range_without_a_slice_is_refused(tmp_path, save, marked):
    path = save(tmp_path / "v.nii.gz", marked[..., 20:], (2, 2, 2))
    with pytest.raises(RuntimeError) as caught:
        prepared(path, replace(MRI, positions=(0.1, 0.2)))
    assert "has no slice between the positions 0.1 and 0.2" in str(caught.value.__cause__)


def test_coronal_slices_of_thick_ones_have_square_pixels(tmp_path, save, marked):
    path = save(tmp_path / "v.nii.gz", marked[..., ::3], (1, 1, 3))
    dataset = SliceDataset([{"image": str(path), "subject": "a"}], replace(MRI, plane="coronal"), cache_dir=tmp_path)
    assert dataset.spacing_mm == (1, 1)
    image = dataset.images[len(dataset) // 2]
    rows, columns = ((image > -0.9).any(axis).sum() for axis in (1, 0))
    assert columns == 22
    assert rows == pytest.approx(30, abs=2)


def test_neighbours_are_channels_and_the_ends_repeat(tmp_path, save, marked):
    marked = marked[..., 6:30] + np.arange(24, dtype=np.int16)  # the head goes from end to end
    entry = {"image": str(save(tmp_path / "v.nii.gz", marked)), "subject": "a"}
    alone = SliceDataset([entry, entry], MRI, cache_dir=tmp_path)
    dataset = SliceDataset([entry, entry], replace(MRI, neighbours=2), cache_dir=tmp_path)
    assert len(dataset) == len(alone) == len(dataset.stored_slices) == 48
    assert dataset[0]["image"].shape == (5, 40, 40)
    for index, expected in ((0, [0, 0, 0, 1, 2]), (23, [21, 22, 23, 23, 23]), (24, [24, 24, 24, 25, 26])):
        assert torch.equal(dataset[index]["image"], alone.read(np.array(expected)).float())
        assert np.array_equal(dataset.images[index], alone.images[index])
    batch = next(iter(SliceLoader(dataset, 8)))
    for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
        assert torch.equal(image, dataset[index]["image"])


def test_at_the_end_of_a_range_the_neighbours_are_those_of_the_volume(tmp_path, save, marked):
    marked = np.where(marked > 0, marked + np.arange(38, dtype=np.int16), 0)[..., 6:30]
    entry = {"image": str(save(tmp_path / "v.nii.gz", marked, (2, 2, 5))), "subject": "a"}
    every = SliceDataset([entry], MRI, cache_dir=tmp_path)
    some = SliceDataset([entry], replace(MRI, neighbours=1, positions=(0.4, 0.7)), cache_dir=tmp_path)
    first = int(np.flatnonzero(np.isclose(every.positions, some.positions[0]))[0])
    assert first > 0
    assert torch.equal(some[0]["image"], every.read(np.array([first - 1, first, first + 1])).float())
    assert len(some.stored_slices) == len(some) + 2


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"plane": "oblique"}, "choose one of axial, coronal, sagittal"),
        ({"positions": [0.8, 0.3]}, "positions is"),
        ({"positions": [-1, 0.3]}, "positions is"),
        ({"positions": None}, "positions is"),
        ({"neighbours": 3}, "neighbours is 3"),
        ({"neighbours": True}, "neighbours is True"),
    ],
)
def test_invalid_settings_are_refused(values, line):
    with pytest.raises(MedsynthError, match=line):
        replace(MRI, **values)


def test_settings_survive_their_dictionary():
    settings = replace(MRI, plane="coronal", positions=(0.2, 0.8), neighbours=1)
    assert Preprocessing.from_dict(settings.to_dict()) == settings
    assert settings.channels == 3


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (1, 16, 16)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_nifti_slice_is_read_as_the_picture_of_its_values(tmp_path, shape, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    most = np.iinfo(kind).max
    nib.save(nib.Nifti1Image((pixels.astype(np.uint32) * (most // 255)).astype(kind).reshape(shape), np.eye(4)),
             tmp_path / "slice.nii.gz")  # fmt: skip
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    settings = Preprocessing("image", None, None, 16)
    found, expected = (prepared(tmp_path / name, settings)["image"] for name in ("slice.nii.gz", "picture.png"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    if kind == np.uint8:
        assert torch.equal(found, expected)


def test_a_nifti_slice_of_real_numbers_needs_a_window(tmp_path):
    pixels = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), tmp_path / "slice.nii.gz")
    entries = [{"image": str(tmp_path / "slice.nii.gz"), "subject": "a"}]
    with pytest.raises(MedsynthError, match="state black and white with --window"):
        SliceDataset(entries, Preprocessing("image", None, None, 16), cache_dir=tmp_path)
    dataset = SliceDataset(entries, Preprocessing("image", (0, 1), None, 16), cache_dir=tmp_path)
    torch.testing.assert_close(dataset[0]["image"][0], torch.from_numpy(pixels[..., 0]) * 2 - 1)


def test_a_volume_is_refused_as_a_picture(tmp_path, save, marked):
    path = save(tmp_path / "v.nii.gz", marked)
    with pytest.raises(MedsynthError, match="is neither a picture nor a NIfTI file of one slice"):
        SliceDataset([{"image": str(path), "subject": "a"}], Preprocessing("image", None, None, 16), cache_dir=tmp_path)


def test_beyond_the_field_of_view_there_is_air_and_no_tissue(tmp_path, save):
    slab = np.full((30, 34, 8), 3, np.int16)
    slab[3:27, 3:31] = np.random.default_rng(0).integers(90, 110, (24, 28, 8))
    path = save(tmp_path / "v.nii.gz", slab)
    for plane in ("coronal", "sagittal"):
        image = prepared(path, replace(MRI, plane=plane))["image"]
        assert image[:, 0].unique().tolist() == pytest.approx([3 / 200 - 1])
        assert (image[10] > -0.6).any(1).sum() == 8


def test_a_ct_background_of_0_becomes_air(tmp_path, save):
    slab = np.zeros((30, 34, 8), np.int16)
    slab[3:27, 3:31] = np.random.default_rng(0).integers(30, 50, (24, 28, 8))
    slab[12:15, 12:15, 3:5] = 0  # inside
    image = prepared(save(tmp_path / "v.nii.gz", slab), Preprocessing("ct", "full", None, 40))["image"]
    assert image[4].unique()[0] == -1
    assert (image[4] == -1).sum() == 40 * 40 - 24 * 28


@pytest.mark.parametrize(("air", "is_noted"), [(0, True), (-1000, False)])
def test_ct_without_air_is_told(tmp_path, save, air, is_noted):
    slab = np.full((30, 34, 8), air, np.int16)
    slab[3:27, 3:31] = 40
    slab[3:27, 3:10] = 300
    data = prepared(save(tmp_path / "v.nii.gz", slab), Preprocessing("ct", "full", None, 40))
    assert any("no air is in it" in note for note in data.get("notes", [])) == is_noted
