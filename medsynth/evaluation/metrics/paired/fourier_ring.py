"""Fourier ring correlation: the finest detail that two images have in common, whatever their sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal.windows import tukey

Array = NDArray[np.float64]

TAPER = 0.25  # part of each side over which images fade to their mean, or their edges would correlate
HALF, SEVENTH = 0.5, 1 / 7
"""Thresholds: for an image beside the truth, and for two images that are equally noisy."""
NOTHING = 1e-12  # of an image's power, which rounding leaves in a ring


class FourierRing(NamedTuple):
    """Correlation of two images in rings of equal frequency.

    Attributes:
        frequency: (rings,) of each ring's middle, cycles per mm.
        correlation: (rings,) in [-1, 1]; 1 is identical, 0 unrelated.
    """

    frequency: Array
    correlation: Array


def fourier_ring(fake: ArrayLike, real: ArrayLike, spacing_mm: Sequence[float]) -> FourierRing:
    """Correlation of images with the true ones, ring by ring, all images together.

    It does not depend on brightness or contrast, only on detail at its correct location: invented detail does not raise
    it.

    Args:
        fake, real: (N, H, W) of one shape.
        spacing_mm: between rows and between columns.

    Reference: Saxton and Baumeister, J. Microsc. 127 (1982) 127.
    """
    fake, real = np.asarray(fake, np.float64), np.asarray(real, np.float64)
    if fake.shape != real.shape or real.ndim != 3 or min(real.shape) < 1:
        raise ValueError(f"shapes {fake.shape} and {real.shape}, needs two equal (N, H, W)")
    spectra = [np.fft.fft2(_tapered(images)) for images in (fake, real)]
    rings, widths = _rings(real.shape[1:], spacing_mm)
    count = int(rings[rings >= 0].max()) + 1

    def total(values: Array) -> Array:
        return np.bincount(rings[rings >= 0], values.sum(0)[rings >= 0], count)[1:]

    shared = total((spectra[0] * spectra[1].conj()).real)
    powers = [total(np.abs(spectrum) ** 2) for spectrum in spectra]
    there = np.logical_and(*(power > NOTHING * power.sum() for power in powers))
    correlation = np.zeros(count - 1)
    correlation[there] = shared[there] / np.sqrt(powers[0] * powers[1])[there]
    return FourierRing(np.arange(1, count) * widths, correlation)


def resolution_mm(ring: FourierRing, threshold: float = HALF) -> float:
    """The period in mm at which the correlation first falls below a threshold; lower is better.

    Twice the spacing is the best that pixels can hold; it is returned where the correlation never falls.
    """
    below = np.flatnonzero(ring.correlation < threshold)
    if not below.size:
        return float(1 / ring.frequency[-1])
    first = int(below[0])
    if first == 0:
        return float(1 / ring.frequency[0])
    (low, high), (above, under) = ring.frequency[first - 1 : first + 1], ring.correlation[first - 1 : first + 1]
    return float(1 / (low + (high - low) * (above - threshold) / (above - under)))


def _tapered(images: Array) -> Array:
    window = np.outer(*(tukey(side, TAPER) for side in images.shape[1:]))
    return (images - images.mean((1, 2), keepdims=True)) * window


def _rings(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[NDArray[np.int64], float]:
    """Of each frequency of `fft2` its ring, -1 beyond the coarser axis's limit; and the width of a ring in cycles/mm.

    A ring is as wide as the frequencies of the shorter side of the image lie apart.
    """
    (rows, columns), (row_mm, column_mm) = shape, spacing_mm
    width = 1 / min(rows * row_mm, columns * column_mm)
    frequency = np.hypot(np.fft.fftfreq(rows, row_mm)[:, None], np.fft.fftfreq(columns, column_mm)[None])
    rings = np.round(frequency / width).astype(np.int64)
    rings[frequency > 0.5 / max(row_mm, column_mm)] = -1
    return rings, width
