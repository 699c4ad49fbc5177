from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.volumes.measures import evaluate_volumes, steps, variance
from medsynth.evaluation.metrics.volumes.volume_set import PLANES, VolumeSet


@pytest.fixture(scope="module")
def result(make_volumes, short_search):
    """Held-out volumes, as if synthetic, smeared from slice to slice in the axial direction alone."""
    train, held_out = make_volumes(12, seed=0), make_volumes(9, seed=1)
    smeared = gaussian_filter1d(held_out.volumes, 1.5, axis=3)
    return evaluate_volumes(train, held_out, VolumeSet(smeared, name="synthetic volumes"), seed=0)


def test_steps_by_hand():
    volumes = np.zeros((1, 2, 2, 3))
    volumes[0, :, :, 1] = 1
    volumes[0, 1] += 4
    assert [steps(volumes, axis)[0] for axis in range(3)] == pytest.approx([4, 0, 1])


def test_variance_by_hand_and_of_subjects_drawn_twice():
    rows, units = np.array([[0.0, 1], [2, 1], [4, 7]]), np.array([0, 1, 2])
    of = variance(rows, units)
    assert of(np.ones((1, 3)))[0] == pytest.approx(rows.var(0, ddof=1).sum())
    assert of(np.array([[2.0, 0, 1]]))[0] == pytest.approx(rows[[0, 0, 2]].var(0, ddof=1).sum())


def test_smearing_along_an_axis_is_seen_in_the_steps_along_it_and_in_planes_that_hold_it(result):
    assert result["step_ratio/axial"].value < 0.85
    for plane in ("coronal", "sagittal"):
        assert result[f"step_ratio/{plane}"].value > result["step_ratio/axial"].value + 0.1
        assert result[f"psd_top_third/{plane}"].value < -0.5
    assert all(result[f"step_ratio/{plane}"].floor == pytest.approx(1, abs=0.15) for plane in PLANES)


def test_a_set_beside_itself_has_no_distance_and_ratios_of_one(make_volumes, short_search):
    train, held_out = make_volumes(10, seed=0), make_volumes(9, seed=1)
    result = evaluate_volumes(train, held_out, VolumeSet(held_out.volumes), seed=0)
    for plane in PLANES:
        assert result[f"psd/{plane}"].value == pytest.approx(0, abs=1e-6)
        assert result[f"gradient_ratio/{plane}"].value == pytest.approx(1)
        assert result[f"step_ratio/{plane}"].value == pytest.approx(1)
    assert result["fd_pca/volume"].value == pytest.approx(0, abs=1e-3)
    assert result["recall/volume"].value == 1
    assert result["variance_ratio"].value == pytest.approx(1)


def test_every_measure_stands_beside_its_floor_and_the_gaussian_of_volumes(result):
    for plane in PLANES:
        for name in ("swd", "psd", "gradient_ratio", "step_ratio"):
            measure = result[f"{name}/{plane}"]
            assert None not in (measure.value, measure.floor, measure.baseline, measure.interval)
    assert result["closer_to_train"].floor is not None
    assert result.baseline.size == (16, 24, 16)
    assert len(result.baseline) == 9


def test_too_few_volumes_and_shared_subjects_are_refused(make_volumes):
    train, held_out = make_volumes(10, seed=0), make_volumes(5, seed=1)
    with pytest.raises(MedsynthError, match="fakes: 7 volumes, and 8 are needed"):
        evaluate_volumes(train, held_out, make_volumes(7, seed=2, name="fakes"), seed=0)
    with pytest.raises(MedsynthError, match="split by subject"):
        evaluate_volumes(train, train, make_volumes(8, seed=2), seed=0)
