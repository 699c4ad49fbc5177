from __future__ import annotations

import numpy as np
import pytest

from medsynth.inference.blending import blended, resampled


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_a_blend_is_exact_where_nothing_is_drawn_and_whole_where_all_is(kind):
    values = np.array([3, 7, 100, 5], kind)
    found = blended(values, np.array([np.nan, 8.8, 50.0, 9.4]), np.array([0.0, 0.5, 0.25, 1.0]))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, [3, 8, 88, 9])  # 7.9 and 87.5


def test_a_blend_of_fractions_is_not_rounded():
    values = np.array([0.1, 0.7], np.float32)
    found = blended(values, np.array([1.0, 1.0]), np.array([0.0, 0.5]))
    assert found[0] == values[0]
    assert found[1] == pytest.approx(0.85)


def test_a_volume_on_a_finer_grid_is_linear_between_its_voxels_and_empty_outside():
    volume = np.arange(8.0).reshape(2, 2, 2)
    found = resampled(volume, np.diag([2.0, 2, 2, 1]), np.eye(4), (4, 3, 3), -5.0)
    np.testing.assert_allclose(found[:3, 0, 0], [0, 2, 4])
    assert found[1, 1, 1] == 3.5
    assert (found[3] == -5).all()
