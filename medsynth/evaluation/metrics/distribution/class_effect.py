"""Whether classes differ in synthetic images as they do in real ones: how much of the brain is dark."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medsynth.evaluation.metrics.checks import unit_images
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.texture import FOREGROUND

INNER = 0.3  # of the greatest depth: what is deeper lies within scalp and skull
WHITE_MATTER = 75  # percentile of the inner pixels
DARK = 0.5  # of white matter: cerebrospinal fluid is darker in T1-weighted and FLAIR images, grey matter is not
POSITIONS = (0.45, 0.75)  # between the eye sockets and the top of the brain, where the lateral ventricles lie
STRATUM = 0.05  # of positions that are compared with one another
STRATA = round((POSITIONS[1] - POSITIONS[0]) / STRATUM)
LEAST = 10  # images of a class

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """Of two classes in a set of images, or in several draws of it.

    Attributes:
        effect: of the means, first less second, over the pooled standard deviation (Cohen's d).
        means: (..., 2), dark shares of the classes at the same positions.
    """

    effect: Array
    means: Array


class Effect(NamedTuple):
    """The difference of two classes in real and in synthetic images."""

    classes: tuple[str, str]
    real: Difference
    synthetic: Difference

    @property
    def ratio(self) -> float:
        """Synthetic over real: 1 is as in reality, 0 no difference, below 0 reversed."""
        return float(self.synthetic.effect / self.real.effect)


def dark_share(images: ArrayLike) -> Array:
    """The share of dark pixels within the skull: ventricles and other cerebrospinal fluid.

    The head is what is above 0.1, with its holes filled. Within the skull is what lies deeper than 0.3 of the deepest
    point, dark what is below half the upper quartile there. For T1-weighted and FLAIR slices through the brain.

    Args:
        images: (N, H, W) floats in [0, 1].

    Returns: (N,) from 0 to 1, NaN for an image without a head.
    """
    return np.array([_dark_share(image) for image in unit_images(images, "images")])


def _dark_share(image: NDArray[np.float32]) -> float:
    head = ndimage.binary_fill_holes(ndimage.binary_closing(image > FOREGROUND, iterations=2))
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    if depth.max() < 2:
        return float("nan")
    inner = image[depth > INNER * depth.max()]
    return float((inner < DARK * np.percentile(inner, WHITE_MATTER)).mean())


def differences(
    dark: Array, images: ImageSet, units: NDArray[np.int64]
) -> dict[tuple[str, str], Callable[[Array], Difference]]:
    """How each pair of classes differs in dark shares: the class that comes first in the alphabet less the other.

    Slices are compared with those of other subjects at the same position, in steps of 0.05 from 0.45 to 0.75, so that
    the difference does not measure where the slices of a class lie. Slices without position are all compared.

    Args:
        dark: (N,) shares of the images.
        units: (N,) what is drawn as one, from 0 on.

    Returns: for classes that have 10 images or more, functions of how often each unit is drawn, (draws, units) counts.
    """
    positions = np.where(np.isfinite(images.positions), images.positions, POSITIONS[0])
    usable = np.isfinite(dark) & (positions >= POSITIONS[0]) & (positions < POSITIONS[1])
    strata = ((positions - POSITIONS[0]) / STRATUM).clip(0, STRATA - 1).astype(int)
    members = {name: usable & (images.labels == name) for name in images.classes}
    moments = {name: _moments(dark[own], strata[own], units[own], units.max() + 1) for name, own in members.items()}
    large = [name for name, own in members.items() if own.sum() >= LEAST]
    return {pair: _of_draws(*(moments[name] for name in pair)) for pair in combinations(large, 2)}


def _moments(values: Array, strata: NDArray[np.int64], units: NDArray[np.int64], count: int) -> Array:
    """(count, STRATA, 3): how many values each unit has in each stratum, their sum and the sum of their squares."""
    moments = np.zeros((count, STRATA, 3))
    np.add.at(moments, (units, strata), np.stack([np.ones_like(values), values, values**2], axis=1))
    return moments


def _of_draws(first: Array, second: Array) -> Callable[[Array], Difference]:
    return lambda draws: _difference(np.tensordot(draws, first, 1), np.tensordot(draws, second, 1))


@np.errstate(invalid="ignore", divide="ignore")  # a draw without one of the classes is NaN
def _difference(first: Array, second: Array) -> Difference:
    """The effect from two classes' (..., STRATA, 3): within strata, weighted by their numbers of values."""
    number, sums, squares = np.moveaxis(np.stack([first, second], axis=-2), -1, 0)  # (..., STRATA, 2) each
    shared = (number > 0).all(-1, keepdims=True)
    number = np.where(shared, number, 1)
    weights = np.where(shared, 1 / (1 / number).sum(-1, keepdims=True), 0)
    means = (weights * sums / number).sum(-2) / weights.sum(-2)
    within = np.where(shared, squares - sums**2 / number, 0).sum((-1, -2))
    freedom = np.where(shared, number - 1, 0).sum((-1, -2))
    return Difference((means[..., 0] - means[..., 1]) / np.sqrt(within / freedom), means)
