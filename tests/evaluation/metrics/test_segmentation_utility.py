from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics import segmentation_utility
from medsynth.evaluation.metrics.segmentation_scores import areas, dice, hausdorff
from medsynth.evaluation.metrics.segmentation_utility import (
    LabelledSet,
    learn,
    painted,
    segmentation_measures,
    segmented,
)
from medsynth.evaluation.report.synthetic import find, read_maps

NAMES = ["background", "grey", "white"]


def boxes(count: int, seed: int, wrong: bool = False) -> LabelledSet:
    """Noisy images of 21 x 19 pixels of two boxes, and their maps; or maps of other places."""
    random = np.random.default_rng(seed)
    maps = np.zeros((count, 21, 19), np.uint8)
    for one in maps:
        row, column = random.integers(1, 8, 2)
        one[row : row + 6, column : column + 6], one[row + 7 : row + 12, column : column + 5] = 1, 2
    images = np.float32(0.1 + 0.4 * maps + 0.05 * random.standard_normal(maps.shape)).clip(0, 1)
    return LabelledSet(images, np.roll(maps, 5, axis=2) if wrong else maps, [str(i // 2) for i in range(count)])


class Levels(nn.Module):
    """Takes the nearest of three grey values, 0, 0.5 and 1, for the class."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -(images - torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).abs()


def test_dice_is_of_all_images_of_a_subject_by_hand():
    images = np.zeros((3, 4, 4), np.float32)
    maps = np.zeros((3, 4, 4), np.uint8)
    images[0, 0, :2], maps[0, 0, :4] = 0.5, 1  # 2 of 4 found
    images[1, 1, :2], maps[1, 1, :2] = 0.5, 1  # 2 of 2 found
    images[2, 2, 0], maps[2, 3, 3] = 1.0, 2  # another pixel found
    found, rows = segmented(Levels(), images), np.array([0, 0, 1])
    np.testing.assert_allclose(dice(found, maps, rows, 3), [[2 * 4 / (4 + 6), np.nan], [np.nan, 0.0]])
    np.testing.assert_allclose(areas(found, maps, rows, 3), [[2, 0], [0, 1]])


def test_hausdorff_is_in_mm_and_of_images_that_have_the_class_in_both_by_hand():
    found, maps = np.zeros((2, 3, 12, 12), np.uint8)
    maps[0, 2:6, 2:6], found[0, 2:6, 5:9] = 1, 1  # moved by 3 columns
    maps[1, 2:6, 2:6], found[1, 4:8, 2:6] = 1, 1  # by 2 rows
    maps[2, 2:6, 2:6] = 1  # missed
    away = hausdorff(found, maps, np.array([0, 0, 1]), 3, (4.0, 2.0))
    np.testing.assert_allclose(away, [[(3 * 2.0 + 2 * 4.0) / 2, np.nan], [np.nan, np.nan]])


def test_painted_images_have_the_intensities_of_each_class():
    train = boxes(20, 0)
    of_large = np.repeat(np.arange(3, dtype=np.uint8), 20)[None, :, None].repeat(60, axis=2)
    found = painted(train, of_large, 0).images[0]
    assert [found[20 * k + 4 : 20 * k + 16].mean() for k in range(3)] == pytest.approx([0.1, 0.5, 0.9], abs=0.02)
    assert 0.01 < found[4:16].std() < 0.05


def test_good_synthetic_pairs_teach_as_well_as_real_ones_and_wrong_ones_do_not(monkeypatch):
    monkeypatch.setattr(segmentation_utility, "STEPS", 60)
    train, held_out = boxes(40, 0), boxes(12, 1)
    good = {m.name: m for m in segmentation_measures(train, held_out, boxes(40, 2), NAMES, 0, (2.0, 2.0))}
    assert list(good)[:3] == ["dice_tstr", "dice_tstr/grey", "dice_tstr/white"]
    assert good["dice_tstr"].floor > 0.65
    assert good["dice_tstr"].value == pytest.approx(good["dice_tstr"].floor, abs=0.1)
    assert good["dice_shown"].value > 0.65
    low, high = good["dice_tstr"].interval
    assert low <= good["dice_tstr"].value <= high
    assert good["dice_tstr"].value == pytest.approx((good["dice_tstr/grey"].value + good["dice_tstr/white"].value) / 2)
    assert good["dice_tstr"].baseline > 0.5
    assert good["hd95_tstr"].unit == "mm"
    assert good["hd95_tstr"].value == pytest.approx(good["hd95_tstr"].floor, abs=3)
    assert good["area_ratio/white"].value == pytest.approx(1, abs=0.15)
    wrong = segmented(learn(boxes(40, 2, wrong=True), 3, 0), held_out.images)
    assert np.nanmean(dice(wrong, held_out.maps, held_out.rows, 3)) < 0.5


def test_a_class_that_no_tested_image_has_has_no_value(monkeypatch):
    monkeypatch.setattr(segmentation_utility, "STEPS", 1)
    found = {m.name: m for m in segmentation_measures(boxes(4, 0), boxes(4, 1), boxes(4, 2), [*NAMES, "tumour"], 0)}
    assert found["dice_tstr/tumour"].value is None
    assert found["dice_tstr"].value is not None


def test_label_maps_are_read_by_the_names_of_their_codes(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "segmentations").mkdir()
    codes = np.array([[0, 1], [2, 0]], np.uint8)
    nib.save(nib.Nifti1Image(codes[..., None], np.eye(4)), tmp_path / "segmentations" / "a_dseg.nii.gz")
    nib.save(nib.Nifti1Image(codes[..., None].astype(float), np.eye(4)), tmp_path / "images" / "a.nii.gz")
    sidecar = {"Segmentation": "segmentations/a_dseg.nii.gz", "IntensityBounds": [0, 1], "Preprocessing": {}}
    (tmp_path / "images" / "a.json").write_text(json.dumps(sidecar))
    table = tmp_path / "segmentations" / "dseg.tsv"
    table.write_text("index\tname\n0\tair\n1\twhite\n2\tgrey\n")
    files = find(str(tmp_path / "images"))
    assert files[0].segmentation == tmp_path / "segmentations" / "a_dseg.nii.gz"
    np.testing.assert_array_equal(read_maps(files, {0: "background", 3: "grey", 7: "white"}), [[[0, 2], [1, 0]]])
    with pytest.raises(MedsynthError, match="holds grey, and the real images have background, white: give the classes"):
        read_maps(files, {0: "background", 1: "white"})
