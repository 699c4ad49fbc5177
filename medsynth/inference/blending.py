"""What a network draws put into an image that stays as it is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def blended(values: np.ndarray, drawn: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values with `share` of what is drawn; bit for bit as they are where that is 0, and whole where all of them are.

    Args:
        values, drawn, share: of one shape; shares from 0 to 1.
    """
    result = values + share * (drawn - values)
    if (values == np.round(values)).all():
        result = np.round(result)
    return np.where(share > 0, result, values).astype(values.dtype)


def resampled(
    volume: np.ndarray, affine: np.ndarray, to_affine: np.ndarray, shape: Sequence[int], outside: float
) -> np.ndarray:
    """A volume on another grid, linear between its voxels."""
    there = np.linalg.inv(affine) @ to_affine
    return ndimage.affine_transform(volume, there[:3, :3], there[:3, 3], tuple(shape), order=1, cval=outside)
