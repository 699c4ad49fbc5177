import numpy as np
import pytest

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.volumes.volume_set import SLICES, VolumeSet, through_patient


def test_slices_of_a_plane_are_those_of_the_volumes_with_their_subjects():
    volumes = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float32) / 255
    made = VolumeSet(volumes, ["a", "b"])
    for plane, second in (
        ("sagittal", volumes[1, 2]),
        ("coronal", volumes[1, :, 2]),
        ("axial", volumes[1, :, :, 2]),
    ):
        slices = made.slices(plane, np.array([0, 2]))
        assert slices.subjects.tolist() == ["a", "a", "b", "b"]
        assert slices.images[3] == pytest.approx(second)
    assert made.volumes == pytest.approx(volumes)
    assert made.take(np.array([1])).volumes == pytest.approx(volumes[1:])


def test_slices_lie_within_the_patient():
    volumes = np.zeros((2, 8, 40, 8), np.float32)
    volumes[:, 2:6, 10:31, 2:6] = 1
    where = through_patient(VolumeSet(volumes), "coronal")
    assert (where[0], where[-1], len(where)) == (10, 30, SLICES)
    assert through_patient(VolumeSet(volumes), "axial").tolist() == [2, 3, 4, 5]


def test_slices_are_no_volumes():
    with pytest.raises(MedsynthError, match=r"needs \(volumes, X, Y, Z\)"):
        VolumeSet(np.zeros((2, 8, 8)))
