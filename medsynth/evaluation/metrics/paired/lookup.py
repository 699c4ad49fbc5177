"""Lookup of intensities: a baseline that predicts another modality from each voxel's intensity alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = 256  # of matched histograms
BINS = 128  # of a lookup table, of equally many voxels each


@dataclass(frozen=True)
class Lookup:
    """A curve from source to target intensity; call it on an image. Beyond its ends it stays level.

    Args:
        source, target: (points,) intensities, source ascending.
    """

    source: NDArray[np.float64]
    target: NDArray[np.float64]

    def __call__(self, image: NDArray) -> NDArray[np.float32]:
        """Any shape, source intensities -> target intensities."""
        return np.interp(image, self.source, self.target).astype(np.float32)


def histogram_matching(source: ArrayLike, target: ArrayLike) -> Lookup:
    """The curve that gives the source's intensities the target's histogram; which voxel is which does not matter.

    Args:
        source, target: voxels of the body, of training images.
    """
    # scikit-image's `match_histograms` matches one image to another and has no curve to apply to images of others
    levels = np.linspace(0, 1, LEVELS + 1)
    return _lookup(np.quantile(source, levels), np.quantile(target, levels))


def intensity_lookup(source: ArrayLike, target: ArrayLike) -> Lookup:
    """The mean target intensity at each source intensity: the best prediction that sees one voxel at a time.

    Args:
        source, target: (voxels,) at the same locations of training images.
    """
    source, target = np.ravel(source), np.ravel(target)
    edges = np.unique(np.quantile(source, np.linspace(0, 1, BINS + 1)))
    bins = np.searchsorted(edges[1:-1], source, side="right")
    counts = np.bincount(bins, minlength=max(len(edges) - 1, 1))
    used = counts > 0
    return _lookup(*(np.bincount(bins, values, len(counts))[used] / counts[used] for values in (source, target)))


def _lookup(source: NDArray, target: NDArray) -> Lookup:
    """The mean target at each source intensity."""
    unique, indices = np.unique(source, return_inverse=True)
    return Lookup(unique, np.bincount(indices, target) / np.bincount(indices))
