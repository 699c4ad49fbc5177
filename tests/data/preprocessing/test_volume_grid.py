from __future__ import annotations

import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.volume_grid import (
    VolumePreprocessing,
    fitted_grid,
    grid_transforms,
    prepare_volume,
    three_planes,
)
from medsynth.errors import MedsynthError

GRID = VolumePreprocessing("mri", (0.0, 400.0), (2.0, 2.0, 2.0), (24, 32, 24), region="head", finer=1)
EDGES = GRID.margins


def prepared(path, preprocessing=GRID):
    array, facts = prepare_volume(Source(str(path)), preprocessing, grid_transforms(preprocessing))
    assert array is not None, facts
    return array[0].astype(np.float64), facts


@pytest.fixture
def scan(tmp_path, save, head):
    return lambda name="a", **how: save(tmp_path / f"{name}.nii.gz", head(), **how)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
def test_voxels_and_their_places_are_those_of_the_scan_however_it_is_stored(scan, orientation):
    stored, facts = prepared(scan(orientation=orientation))
    scan_itself = nib.load(scan(orientation="RAS"))
    values, affine = scan_itself.get_fdata(), np.array(facts["affine"])
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    inside = np.argwhere(stored > -0.5)
    places = inside @ affine[:3, :3].T + affine[:3, 3]
    there = (places - scan_itself.affine[:3, 3]) @ np.linalg.inv(scan_itself.affine[:3, :3]).T
    np.testing.assert_allclose(there, there.round(), atol=1e-4)
    expected = values[tuple(there.round().astype(int).T)].clip(0, 400) / 200 - 1
    np.testing.assert_allclose(stored[tuple(inside.T)], expected, atol=1e-3)
    assert len(inside) == (values > 100).sum()


def test_the_top_of_a_head_is_a_little_below_the_end_of_the_grid_and_its_middle_in_the_middle(scan):
    stored, _ = prepared(scan(), replace(GRID, spacing_mm=(8.0, 8.0, 8.0)))
    there = np.argwhere(stored > -0.9)
    low, high = there.min(0), there.max(0)
    np.testing.assert_allclose((low + high)[:2] / 2, (np.array(stored.shape[:2]) - 1) / 2, atol=1)
    assert high[2] == stored.shape[2] - EDGES[2] - 2  # 8 mm below


def test_a_coarser_grid_holds_means(tmp_path, save, head):
    volume = head((40, 40, 40))
    path = save(tmp_path / "a.nii.gz", volume, (1, 1, 1))
    stored, facts = prepared(path)
    assert facts["spacing_mm"] == [2, 2, 2]
    assert (stored.mean() + 1) * stored.size * 8 == pytest.approx((volume / 200).sum(), rel=0.05)


def test_what_is_stored_is_twice_as_fine_where_the_scans_are(tmp_path, study):
    for spacing, finer in (((4.0, 4.0, 4.0), 2), ((2.0, 2.0, 2.0), 1)):
        fitted = fitted_grid(study, tmp_path / "cache", modality="mri", window=None, spacing_mm=spacing, size=GRID.size)
        assert fitted.finer == finer
        dataset = VolumeDataset(study, fitted, ("AD", "NC"), tmp_path / "cache")
        shape = [finer * (length + 2 * edge) for length, edge in zip(GRID.size, EDGES, strict=True)]
        assert list(dataset[0]["image"].shape) == [1, *shape]
    assert dataset[0]["label"] == 1
    assert dataset.space.affine(GRID.size)[0, 3] == pytest.approx(-23)


def test_without_a_spacing_the_largest_head_just_fits(tmp_path, study, caplog):
    with caplog.at_level(logging.INFO):
        fitted = fitted_grid(study, tmp_path, modality="mri", window=None, spacing_mm=None, size=(16, 16, 16))
    spacing = fitted.spacing_mm[0]
    stored, _ = prepared(study[0]["image"], fitted)
    there = np.argwhere(stored > -0.9)
    assert 15 <= np.ptp(there, axis=0)[:2].max() + 1 <= 17 * (fitted.finer or 1)
    assert f"voxels of {spacing:.4g} mm" in caplog.text
    assert VolumePreprocessing.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_a_spacing_in_which_heads_do_not_fit_is_refused_with_one_in_which_they_do(tmp_path, study):
    settings = {"modality": "mri", "window": None, "size": (16, 16, 16)}
    with pytest.raises(MedsynthError, match=r"the grid is 16 x 16 x 16 mm, and heads are up to .* give --spacing_mm"):
        fitted_grid(study, tmp_path, spacing_mm=(1.0, 1.0, 1.0), **settings)


def test_less_than_8_volumes_are_refused_and_less_than_40_are_called_few(tmp_path, study, caplog):
    settings = {"modality": "mri", "window": None, "spacing_mm": (4.0, 4.0, 4.0), "size": GRID.size}
    with pytest.raises(MedsynthError, match="7 volumes, and 8 are needed"):
        fitted_grid(study[:7], tmp_path, **settings)
    fitted_grid(study, tmp_path, **settings)
    assert "12 volumes are few" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": (24, 32)}, "three multiples of 8"),
        ({"size": (24, 30, 24)}, "three multiples of 8"),
        ({"spacing_mm": (1.0, 1.0)}, "three sizes in mm"),
        ({"modality": "image", "window": None}, "for pictures, use vaegan"),
        ({"region": "neck"}, "head, body"),
        ({"modality": "ct", "window": None, "bias_correction": True}, "bias_correction is for modality mri"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(MedsynthError, match=words):
        replace(GRID, **settings)


def test_slices_and_pictures_are_refused_in_words_that_follow_the_file_s_name(tmp_path, save):
    path = save(tmp_path / "slice.nii.gz", np.ones((20, 20, 1), np.int16))
    assert prepare_volume(Source(str(path)), GRID, None)[1]["error"].startswith("is a single slice")
    assert prepare_volume(Source(str(tmp_path / "a.png")), GRID, None)[1]["error"].startswith("is a picture")


def test_three_planes_are_upright_as_radiologists_see_them():
    volume = -torch.ones(1, 1, 4, 6, 8)
    volume[0, 0, 3, 5, 7] = 1  # right, front, top
    axial = three_planes(volume, (0.5, 0.5, 0.99))[0, 0]
    assert axial.shape == (8, 4 + 4 + 6)
    assert axial[0, 0] == 1  # front above, right on the left
    coronal = three_planes(volume, (0.5, 0.99, 0.5))[0, 0]
    assert coronal[0, 4] == 1
    sagittal = three_planes(volume, (0.99, 0.5, 0.5))[0, 0]
    assert sagittal[0, 8] == 1  # the face to the left
