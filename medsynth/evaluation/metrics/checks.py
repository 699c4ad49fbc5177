"""Checks of the arrays that measures take, with one-line errors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

RANGE_TOLERANCE = 1e-4  # float32 rounding of a map to [0, 1]


class CannotMeasure(ValueError):
    """A measure cannot be computed on these images; the text gives the reason, for the report."""


def unit_images(images: ArrayLike, name: str) -> NDArray[np.float32]:
    """(N, H, W) float images in [0, 1], N >= 2, as float32; CannotMeasure otherwise."""
    array = np.asarray(images)
    if array.ndim != 3 or len(array) < 2:
        raise CannotMeasure(f"{name}: shape {array.shape}, needs (N, H, W) with at least 2 images")
    if not np.issubdtype(array.dtype, np.floating):
        raise CannotMeasure(f"{name}: dtype {array.dtype}, needs floats in [0, 1]: divide by the full scale first")
    low, high = array.min(), array.max()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # false for NaN too
        raise CannotMeasure(f"{name}: values from {low} to {high}, needs [0, 1] without NaN")
    return array.astype(np.float32, copy=False)


def same_size(real: NDArray[np.float32], fake: NDArray[np.float32]) -> None:
    """CannotMeasure unless both sets hold images of one size."""
    if real.shape[1:] != fake.shape[1:]:
        raise CannotMeasure(f"real images are {real.shape[1:]} and fake ones {fake.shape[1:]}: resize one set first")


def feature_rows(features: ArrayLike, name: str) -> NDArray[np.float64]:
    """(N, D) finite features, N >= 2, as float64; CannotMeasure otherwise."""
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise CannotMeasure(f"{name}: shape {array.shape}, needs (N, D) with at least 2 rows")
    if not np.isfinite(array).all():
        raise CannotMeasure(f"{name}: NaN or infinite features: look for such images in the set")
    return array


def subject_of_each(subjects: ArrayLike, rows: int, name: str) -> NDArray:
    """One subject for each row, of at least two subjects; CannotMeasure otherwise."""
    array = np.asarray(subjects)
    if array.shape != (rows,):
        raise CannotMeasure(f"{name}: shape {array.shape}, needs one subject for each of the {rows} rows")
    if len(np.unique(array)) < 2:
        raise CannotMeasure(f"{name}: one subject only ({array[0]}), needs two or more")
    return array
