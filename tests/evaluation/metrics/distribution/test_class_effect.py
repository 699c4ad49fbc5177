from __future__ import annotations

import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.class_effect import Difference, Effect, dark_share, differences
from medsynth.evaluation.metrics.distribution.image_set import ImageSet

SIDE = 64


def head(ventricle: float, radius: float = 26, dark: float = 0.2) -> np.ndarray:
    """A brain at 0.8 under a skull at 0.15 and a scalp at 0.9, with a dark disc of a radius in its middle."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    distance = np.hypot(x, y)
    image = np.where(distance < radius, 0.9, 0.0)
    image[distance < radius - 2] = 0.15
    image[distance < radius - 4] = 0.8
    image[distance < ventricle] = dark
    return image.astype(np.float32)


def image_set(shares: dict[str, list[float]], positions) -> tuple[np.ndarray, ImageSet]:
    """Values and empty images of some classes."""
    labels = [label for label, values in shares.items() for _ in values]
    values = np.concatenate(list(shares.values()))
    return values, ImageSet(np.zeros((len(values), 2, 2), np.float32), labels=labels, positions=positions)


def one_effect(values, images, units=None) -> float:
    units = np.arange(len(values)) if units is None else units
    (difference,) = differences(values, images, units).values()
    return difference(np.ones((1, units.max() + 1))).effect[0]


def effect_size(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's d, where all images are at one position."""
    squares = sum(((values - values.mean()) ** 2).sum() for values in (first, second))
    return (first.mean() - second.mean()) / np.sqrt(squares / (len(first) + len(second) - 2))


def test_the_dark_share_is_that_of_the_ventricle_within_the_skull():
    shares = dark_share(np.stack([head(0), head(6), head(12), head(6, dark=0.5)]))
    inner = np.hypot(*(np.mgrid[:SIDE, :SIDE] - 31.5)) < 26 * 0.7
    expected = [0.0, *((head(radius)[inner] < 0.4).mean() for radius in (6, 12)), 0.0]
    assert shares == pytest.approx(expected, abs=0.02)


def test_the_dark_share_does_not_depend_on_the_size_or_brightness_of_the_head():
    small, large, dim = dark_share(np.stack([head(5, radius=20), head(7, radius=28), 0.6 * head(7, radius=28)]))
    assert small == pytest.approx(large, rel=0.06)
    assert dim == pytest.approx(large)


def test_an_image_without_a_head_has_no_dark_share():
    assert np.isnan(dark_share(np.zeros((2, SIDE, SIDE), np.float32))).all()


def test_the_effect_size_by_hand():
    assert effect_size(np.array([3.0, 5.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / np.sqrt((2 + 2) / 3))


def test_pairs_of_classes_have_the_effect_by_hand_and_its_sign():
    old, young = np.arange(10.0) + 4, np.arange(12.0)
    values, images = image_set({"old": old, "young": young}, np.full(22, 0.5))
    assert one_effect(values, images) == pytest.approx(effect_size(old, young))
    assert effect_size(old, young) == pytest.approx(-effect_size(young, old))


def test_positions_are_matched_before_classes_are_compared():
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.uniform(0.45, 0.75, 2000) ** 1.5, rng.uniform(0.45, 0.75, 2000)])
    values = 10 * np.floor(positions / 0.05) + rng.standard_normal(4000)  # depends on the position alone
    values, images = image_set({"old": values[:2000], "young": values[2000:]}, positions)
    assert effect_size(values[:2000], values[2000:]) < -0.5
    assert one_effect(values, images) == pytest.approx(0, abs=0.1)


def test_slices_elsewhere_do_not_count_and_slices_without_position_do():
    values = {"old": np.arange(20.0), "young": np.arange(20.0) - 3}
    positions = np.where(np.arange(40) % 2, 0.5, 0.2)
    expected = effect_size(values["old"][1::2], values["young"][1::2])
    assert one_effect(*image_set(values, positions)) == pytest.approx(expected)
    assert one_effect(*image_set(values, np.full(40, np.nan))) == pytest.approx(effect_size(*values.values()))


def test_a_draw_counts_subjects_as_often_as_they_are_drawn():
    values, images = image_set({"old": np.arange(20.0) ** 2, "young": np.arange(20.0)}, np.full(40, 0.6))
    units = np.tile(np.repeat([0, 1, 2, 3], 5), 2)
    (difference,) = differences(values, images, units).values()
    twice = np.concatenate([np.flatnonzero(units == 0), np.flatnonzero(units == 0), np.flatnonzero(units == 2)])
    first, second = (values[twice][twice // 20 == half] for half in (0, 1))
    found = difference(np.array([[2.0, 0.0, 1.0, 0.0]]))
    assert found.effect[0] == pytest.approx(effect_size(first, second))
    assert found.means[0] == pytest.approx([first.mean(), second.mean()])


def test_small_classes_are_not_compared_and_three_make_three_pairs():
    values, images = image_set({name: np.arange(12.0) for name in "abc"} | {"d": np.arange(9.0)}, np.full(45, 0.5))
    assert list(differences(values, images, np.arange(45))) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_ratio_tells_the_wrong_way_round_by_its_sign():
    real, half, wrong = (Difference(np.float64(effect), np.zeros(2)) for effect in (-1.2, -0.6, 0.6))
    assert Effect(("old", "young"), real, half).ratio == pytest.approx(0.5)
    assert Effect(("old", "young"), real, wrong).ratio == pytest.approx(-0.5)
