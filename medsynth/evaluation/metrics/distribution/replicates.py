"""The measures again as functions of how often each subject of the reference is drawn, for bootstrap intervals.

Each function sums what a measure needs over each subject once, so that a draw costs little. Each returns a function:
(draws, subjects) counts -> (draws,) values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from medsynth.evaluation.metrics.distribution.distances import cubic_kernel, gaussian_frechet
from medsynth.evaluation.metrics.texture import (
    FOREGROUND,
    Images,
    PatchLevel,
    decibels,
    mean_gradients,
    patch_levels,
    radial_power,
    spectral_difference,
)

Array = NDArray[np.float64]
Replicates = Callable[[Array], Array]

MOST_UNITS = 100  # more subjects than that are drawn in groups
BINS = 256


def units_of(subjects: NDArray) -> NDArray[np.int64]:
    """(N,) subjects -> (N,) what is drawn as one, numbered from 0: the subject, or a group where they are many."""
    names, codes = np.unique(subjects, return_inverse=True)
    return codes if len(names) <= MOST_UNITS else codes * MOST_UNITS // len(names)


def total(rows: NDArray, units: NDArray[np.int64]) -> Array:
    """(N, ...) -> (units, ...): sums over each unit's rows."""
    order = np.argsort(units, kind="stable")
    starts = np.unique(units[order], return_index=True)[1]
    return np.add.reduceat(np.asarray(rows, np.float64)[order], starts, axis=0)


def mean(rows: NDArray, units: NDArray[np.int64]) -> Replicates:
    """Of a mean over images of (N,) values."""
    sums, counts = total(rows, units), np.bincount(units)
    return lambda draws: draws @ sums / (draws @ counts)


def frechet(real: Array, fake: Array, variance: float, units: NDArray[np.int64]) -> Replicates:
    """Of a Fréchet distance in per cent of `variance`."""
    counts, sums = np.bincount(units), total(real, units)
    squares = np.stack([real[units == unit].T @ real[units == unit] for unit in range(len(counts))])
    fake_mean, fake_covariance = fake.mean(0), np.cov(fake.T)

    def one(draw: Array) -> float:
        count = draw @ counts
        centre = draw @ sums / count
        covariance = (np.tensordot(draw, squares, 1) - count * np.outer(centre, centre)) / (count - 1)
        return 100 * gaussian_frechet(centre, covariance, fake_mean, fake_covariance) / variance

    return lambda draws: np.array([one(draw) for draw in draws])


def kid(real: Array, fake: Array, units: NDArray[np.int64]) -> Replicates:
    """Of the kernel distance."""
    counts = np.bincount(units)
    kernel = cubic_kernel(real, real)
    np.fill_diagonal(kernel, 0)
    within = total(total(kernel, units).T, units)
    pairs = np.outer(counts, counts) - np.diag(counts)
    across = mean(cubic_kernel(real, fake).mean(1), units)
    fakes = cubic_kernel(fake, fake)
    constant = (fakes.sum() - np.trace(fakes)) / (len(fake) * (len(fake) - 1))

    def values(draws: Array) -> Array:
        inside = ((draws @ within) * draws).sum(1) / ((draws @ pairs) * draws).sum(1)
        return 1e3 * (inside + constant - 2 * across(draws))

    return values


def precision(in_real_ball: NDArray[np.bool_], units: NDArray[np.int64]) -> Replicates:
    """Of the share of fakes in any ball of a real image that is drawn, from (real, fakes)."""
    per_unit = (total(in_real_ball, units) > 0).astype(np.float64)
    return lambda draws: (draws @ per_unit > 0).mean(1)


def psd(real: Images, fake: Images, units: NDArray[np.int64]) -> Replicates:
    """Of the difference of the spectra: (2, draws), `texture.Psd` of each draw."""
    sums, counts = total(radial_power(real), units), np.bincount(units)
    fake_db = decibels(radial_power(fake).mean(0))

    def values(draws: Array) -> Array:
        real_db = decibels(draws @ sums / (draws @ counts)[:, None])
        return np.array([spectral_difference(row, fake_db) for row in real_db]).T

    return values


def gradient_ratio(real: Images, fake: Images, units: NDArray[np.int64]) -> Replicates:
    """Of the ratio of mean gradients."""
    of_real, of_fake = mean(mean_gradients(real), units), mean_gradients(fake).mean()
    return lambda draws: of_fake / of_real(draws)


def intensity_w1(real: Images, fake: Images, units: NDArray[np.int64]) -> Replicates:
    """Of the Wasserstein distance of foreground intensities, from histograms."""
    edges = np.linspace(FOREGROUND, 1, BINS + 1)
    real_counts = total(np.stack([np.histogram(image, edges)[0] for image in real]), units)
    fake_share = np.histogram(fake, edges)[0].cumsum() / max((fake > FOREGROUND).sum(), 1)

    def values(draws: Array) -> Array:
        counts = (draws @ real_counts).cumsum(1)
        return 1e3 * (edges[1] - edges[0]) * np.abs(counts / counts[:, -1:] - fake_share).sum(1)

    return values


def swd(real: Images, fake: Images, seed: int, units: NDArray[np.int64]) -> dict[int, Replicates]:
    """Of the sliced Wasserstein distance at each level, from histograms of fewer patches and directions.

    The real images must not be more than the fakes, or else not all of them would be compared.
    """
    levels = patch_levels(real, fake, seed, patches_per_image=16, projections=32)
    return {level.size: _sliced(level, units) for level in levels}


def _sliced(level: PatchLevel, units: NDArray[np.int64]) -> Replicates:
    real, fake = (level.directions @ patches.T for patches in (level.real, level.fake))
    low, high = min(real.min(), fake.min()), max(real.max(), fake.max())
    step = (high - low) / (BINS - 1)
    patch_units = np.repeat(units, real.shape[1] // len(units))
    counts = np.zeros((units.max() + 1, len(real), BINS))
    for number, row in enumerate(real):
        bins = patch_units * BINS + ((row - low) / step).astype(np.int64)
        counts[:, number] = np.bincount(bins, minlength=len(counts) * BINS).reshape(-1, BINS)
    found = np.stack([np.bincount(((row - low) / step).astype(np.int64), minlength=BINS) for row in fake])
    fake_share = found.cumsum(1) / fake.shape[1]

    def one(draw: Array) -> float:
        drawn = np.tensordot(draw, counts, 1).cumsum(1)
        return 1e3 * step * np.abs(drawn / drawn[:, -1:] - fake_share).sum(1).mean() / level.deviation

    return lambda draws: np.array([one(draw) for draw in draws])


def auc(real_scores: Array, fake_scores: Array, units: NDArray[np.int64]) -> Replicates:
    """Of the area under the ROC curve, `units` being those of the real scores."""
    truth = np.repeat([0, 1], [len(real_scores), len(fake_scores)])
    scores, ones = np.concatenate([real_scores, fake_scores]), np.ones(len(fake_scores))
    return lambda draws: np.array(
        [roc_auc_score(truth, scores, sample_weight=np.concatenate([draw[units], ones])) for draw in draws]
    )
