from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.io.masks import read_mask
from medsynth.data.io.sources import read_volume
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.translation.pair_slices import PairDataset

MRI = Preprocessing("mri", None, None, 32)


@pytest.fixture
def scan(tmp_path, head, save):
    """An entry with a mask: 12 voxels in each direction, in the middle of a head."""
    inside = np.zeros((24, 30, 26), np.uint8)
    inside[6:18, 9:21, 7:19] = 1
    image, mask = save(tmp_path / "a.nii.gz", head(), orientation="LPS"), save(tmp_path / "mask.nii.gz", inside)
    return {"image": str(image), "subject": "a", "mask": str(mask)}


def test_a_mask_is_the_foreground_and_gives_the_bounds(scan, tmp_path):
    dataset = SliceDataset([scan], MRI, cache_dir=tmp_path / "cache")
    assert len(dataset) == 12
    inside = nib.load(scan["image"]).get_fdata()[::-1, ::-1][6:18, 9:21, 7:19]
    np.testing.assert_allclose(dataset.bounds[0], np.percentile(inside, (0.5, 99.5)), rtol=1e-6)


def test_another_mask_makes_other_slices(scan, tmp_path, save):
    first = SliceDataset([scan], MRI, cache_dir=tmp_path / "cache")
    inside = np.zeros((24, 30, 26), np.uint8)
    inside[6:18, 9:21, 10:19] = 1
    save(tmp_path / "mask.nii.gz", inside)
    assert len(first) == 12
    assert len(SliceDataset([scan], MRI, cache_dir=tmp_path / "cache")) == 9


def test_a_mask_on_another_grid_is_resampled_with_a_note(scan, tmp_path, save, caplog):
    coarse = np.zeros((12, 15, 13), np.uint8)
    coarse[3:9, 4:10, 4:10] = 255
    save(tmp_path / "mask.nii.gz", coarse, (4, 4, 4))
    with caplog.at_level(logging.INFO):
        dataset = SliceDataset([scan], MRI, cache_dir=tmp_path / "cache")
    assert len(dataset) in (12, 13)
    assert "(subject a): its mask" in caplog.text
    assert "has another grid" in caplog.text


@pytest.mark.parametrize(
    ("values", "corner", "message"),
    [
        (np.zeros((24, 30, 26)), 0, "is an empty mask: give one"),
        (np.arange(24 * 30 * 26).reshape(24, 30, 26) % 4, 0, "is no mask: it holds 4 values from 0 to 3"),
        (np.ones((24, 30, 26)), 500, "is an empty mask where its image is"),
    ],
)
def test_a_wrong_mask_is_refused_by_subject_and_file(scan, tmp_path, values, corner, message):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = corner
    nib.save(nib.Nifti1Image(np.uint8(values), affine), scan["mask"])
    with pytest.raises(
        MedsynthError, match=rf"a.nii.gz \(subject a\) has a mask that cannot be used: .*mask.nii.gz {message}"
    ):
        SliceDataset([scan], MRI, cache_dir=tmp_path / "cache")


def test_a_mask_turns_with_its_image(scan):
    image = read_volume(scan["image"])
    inside, note = read_mask(scan["mask"], image.shape[1:], image.affine.numpy())
    assert note is None
    np.testing.assert_array_equal(np.argwhere(inside).min(0), [6, 9, 7])
    np.testing.assert_array_equal(inside, np.float32(nib.load(scan["mask"]).get_fdata()[::-1, ::-1]) > 0)


def test_pairs_carry_the_mask_beside_their_slices(scan, tmp_path, save, head):
    target = save(tmp_path / "b.nii.gz", head(seed=1))
    pair = {"source": scan["image"], "target": str(target), "subject": "a", "mask": scan["mask"]}
    dataset = PairDataset([pair], MRI, MRI, cache_dir=tmp_path / "cache")
    body = dataset[0]["body"]
    assert body.shape == (1, 32, 32)
    assert int((body > 0).sum()) == 144
    assert "body" not in PairDataset([pair | {"mask": None}], MRI, MRI, cache_dir=tmp_path / "cache").views
