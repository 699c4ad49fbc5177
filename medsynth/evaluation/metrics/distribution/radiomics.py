"""Radiomics of a slice: what first-order statistics and grey-level co-occurrence say of it, 22 values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.feature import graycomatrix, graycoprops

from medsynth.evaluation.metrics.checks import unit_images
from medsynth.evaluation.metrics.texture import FOREGROUND

HISTOGRAM_BINS = 32
GREY_LEVELS = 16
PERCENTILES = (10, 25, 50, 75, 90)
GRAYCOPROPS = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation")
NAMES = [
    "area",
    "mean",
    "deviation",
    "skewness",
    "kurtosis",
    "p10",
    "p25",
    "p50",
    "p75",
    "p90",
    "interquartile_range",
    "mean_absolute_deviation",
    "entropy",
    "uniformity",
    "contrast",
    "dissimilarity",
    "homogeneity",
    "second_moment",
    "correlation",
    "joint_entropy",
    "maximum_probability",
    "cluster_shade",
]


def radiomics(images: ArrayLike) -> NDArray[np.float64]:
    """22 values of each image, in the order of NAMES.

    First order: of the pixels above 0.1. Co-occurrence: 16 grey levels, distance 1, mean of four directions,
    symmetric; air beside air left out.

    Args:
        images: (N, H, W) floats in [0, 1].

    Returns: (N, 22); rows of an image without foreground are 0 in the first 14.

    Reference: Zwanenburg et al., The image biomarker standardization initiative, Radiology 295 (2020) 328.
    """
    images = unit_images(images, "images")
    return np.array([[*_first_order(image), *_cooccurrence(image)] for image in images])


def _first_order(image: NDArray[np.float32]) -> list[float]:
    values = image[image > FOREGROUND].astype(np.float64)
    if not len(values):
        return [0.0] * 14
    mean, deviation = values.mean(), values.std()
    scaled = (values - mean) / max(deviation, 1e-9)
    percentiles = np.percentile(values, PERCENTILES)
    shares = np.histogram(values, HISTOGRAM_BINS, (0, 1))[0] / len(values)
    return [
        len(values) / image.size,
        mean,
        deviation,
        (scaled**3).mean(),
        (scaled**4).mean(),
        *percentiles,
        percentiles[3] - percentiles[1],
        np.abs(values - mean).mean(),
        _entropy(shares),
        (shares**2).sum(),
    ]


def _cooccurrence(image: NDArray[np.float32]) -> list[float]:
    levels = np.rint(image.clip(0, 1) * (GREY_LEVELS - 1)).astype(np.uint8)
    counts = graycomatrix(levels, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], GREY_LEVELS, symmetric=True)
    pairs = counts.sum((2, 3)).astype(np.float64)
    pairs[0, 0] = 0
    pairs /= max(pairs.sum(), 1)
    properties = [float(graycoprops(pairs[..., None, None], name)[0, 0]) for name in GRAYCOPROPS]
    row, column = np.indices(pairs.shape)
    mean = (row * pairs).sum()
    return [*properties, _entropy(pairs), pairs.max(), ((row + column - 2 * mean) ** 3 * pairs).sum()]


def _entropy(shares: NDArray[np.float64]) -> float:
    """In bits."""
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())
