from __future__ import annotations

import numpy as np
import pytest

from medsynth.evaluation.metrics.volumes.label_volumes import LabelMaps, label_volumes, labelled_slices
from medsynth.evaluation.metrics.volumes.volume_set import VolumeSet

NAMES = ("background", "cortex", "lesion")


def filled(*voxels: int) -> np.ndarray:
    """Maps (N, 4, 5, 6) with so many voxels of class 1 each."""
    maps = np.zeros((len(voxels), 120), np.uint8)
    for one, count in zip(maps, voxels, strict=True):
        one[:count] = 1
    return maps.reshape(-1, 4, 5, 6)


def test_the_volume_of_a_class_is_that_of_synthetic_maps_over_that_of_held_out_ones():
    maps = LabelMaps(filled(10, 30), filled(20, 20, 40, 40), filled(30, 60, 30), NAMES)
    cortex, lesion = label_volumes(maps, np.array(["a", "a", "b", "b"]), seed=0)
    assert cortex.name == "label_volume/cortex"
    assert cortex.value == pytest.approx(40 / 30)
    assert cortex.floor == pytest.approx(20 / 30)
    assert (cortex.target, cortex.direction, cortex.n) == (1.0, "near", 3)
    assert cortex.interval[0] < cortex.value < cortex.interval[1]
    assert cortex.note == "deviation 35% of the mean, of real ones 33%"
    assert (lesion.value, lesion.note) == (None, "no held-out label map has this class")


def test_slices_of_label_maps_are_those_of_their_volumes():
    values = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    maps, where = (values > 0.5).astype(np.uint8), np.array([1, 4])
    found = labelled_slices(VolumeSet(values, ["a", "b"]), maps, "axial", where)
    assert found.images.shape == (4, 4, 5)
    assert np.array_equal(found.maps, found.images > 0.5)
    assert found.subjects == ["a", "a", "b", "b"]
    assert np.array_equal(found.maps[3], maps[1, :, :, 4])
