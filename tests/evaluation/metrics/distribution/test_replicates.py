import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.distribution.distances import frechet_percent, kid
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.texture import gradient_ratio, intensity_w1, psd, swd

ONCE = np.ones((1, 8))
TWICE = np.array([[2.0, 2, 2, 2, 0, 0, 0, 0]])  # the first four subjects


@pytest.fixture
def sets(make_slices):
    return make_slices(8, seed=1), make_slices(9, seed=2).images


def test_every_subject_drawn_once_gives_the_measure_itself(sets):
    real, fake = sets
    units = resampling.units_of(real.subjects)
    pair = real.images, fake
    assert resampling.gradient_ratio(*pair, units)(ONCE)[0] == pytest.approx(gradient_ratio(*pair))
    assert resampling.psd(*pair, units)(ONCE)[:, 0] == pytest.approx(tuple(psd(*pair)))
    assert resampling.intensity_w1(*pair, units)(ONCE)[0] == pytest.approx(intensity_w1(*pair), rel=0.03)
    flat = real.images, 0.4 * fake  # far apart, so that the fewer patches make no difference
    levels = resampling.swd(*flat, 0, units)
    for size, value in swd(*flat, 0).items():
        assert levels[size](ONCE)[0] == pytest.approx(value, rel=0.2)


def test_distances_of_features_drawn_once_and_of_some_subjects_only():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((80, 3)), 0.3 + rng.standard_normal((60, 3))
    units = np.arange(80) // 10
    variance = real.var(0, ddof=1).sum()
    frechet = resampling.frechet(real, fake, variance, units)
    assert frechet(ONCE)[0] == pytest.approx(frechet_percent(real, fake, real))
    repeated = np.concatenate([real[:40], real[:40]])
    assert frechet(TWICE)[0] == pytest.approx(frechet_percent(repeated, fake, real))
    assert resampling.kid(real, fake, units)(ONCE)[0] == pytest.approx(kid(real, fake))


def test_shares_follow_the_subjects_drawn():
    units = np.arange(8) // 1
    hits = np.arange(8) < 4
    assert resampling.mean(hits, units)(np.concatenate([ONCE, TWICE])).tolist() == [0.5, 1.0]
    holds = np.eye(8, dtype=bool)
    assert resampling.precision(holds, units)(np.concatenate([ONCE, TWICE])).tolist() == [1.0, 0.5]


def test_many_subjects_are_drawn_in_groups():
    units = resampling.units_of(np.arange(1000).astype(str))
    assert len(np.unique(units)) == units.max() + 1 == 100


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 400)
    units = np.arange(400)
    low, high = bootstrap_interval(values.mean(), resampling.mean(values, units), 400, 0, (-np.inf, np.inf))
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * 2 / 20, abs=0.08)


def test_interval_holds_its_value_and_keeps_to_the_limits():
    shares = np.array([1.0, 1, 1, 1, 1, 0.5])
    low, high = bootstrap_interval(shares.mean(), resampling.mean(shares, np.arange(6)), 6, 0, (0, 1))
    assert low <= shares.mean() <= high <= 1
