import numpy as np
import pytest

from medsynth.evaluation.metrics.paired.lookup import histogram_matching, intensity_lookup


def test_lookup_finds_the_curve_between_intensities():
    source = np.random.default_rng(0).uniform(0, 10, 20_000)
    curve = intensity_lookup(source, source**2)
    assert curve(np.array([[1.0, 5.0], [9.0, 3.0]])) == pytest.approx(np.array([[1.0, 25.0], [81.0, 9.0]]), abs=0.3)


def test_lookup_gives_the_mean_where_one_intensity_means_two_things():
    assert intensity_lookup([1, 1, 2, 2], [0, 10, 7, 7])(np.array([1.0, 2.0])).tolist() == [5, 7]


def test_histogram_matching_gives_the_targets_distribution_though_places_differ():
    rng = np.random.default_rng(0)
    source, target = rng.uniform(0, 1, 20_000), rng.normal(100, 5, 20_000)
    matched = histogram_matching(source, target)(source)
    assert (matched.mean(), matched.std()) == pytest.approx((100, 5), abs=0.2)


def test_a_constant_source_becomes_the_mean_target():
    assert intensity_lookup(np.ones(4), np.arange(4.0))(np.array([0.0, 1.0])).tolist() == [1.5, 1.5]
