"""Structural similarity of volumes or images inside a mask, by scikit-image's definition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.image import SCALE_WEIGHTS, UNIFORM_WINDOW

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

K1, K2 = 0.01, 0.03
BORDER = UNIFORM_WINDOW // 2  # voxels where the window does not fit
SLAB = 8  # slices at a time, so that their intermediate results stay in the processor's cache
MS_SSIM_LEAST = 97  # voxels a side: smaller volumes are padded to it


class Similarity(NamedTuple):
    """One way to sum up the maps of structural similarity.

    Attributes:
        data_range: largest less smallest possible value.
        exponent: of the map; with one, negative values count as 0.
    """

    data_range: float
    exponent: float | None = None


def ssim(prediction: NDArray, target: NDArray, mask: Mask, data_range: float) -> float:
    """Mean over a mask of scikit-image's `structural_similarity(..., full=True)` map, 3 voxels of border left out.

    At most 1; higher is better. With a mask that is true everywhere it is scikit-image's value.

    Args:
        prediction, target, mask: of one shape, 2D or 3D, at least 7 voxels a side.
    """
    return masked_means(prediction, target, mask, [Similarity(data_range)])[0]


def ms_ssim(prediction: NDArray, target: NDArray, mask: Mask, data_range: float, finest: float | None = None) -> float:
    """Structural similarity over five scales in a mask, as SynthRAD2025 computes it; in [0, 1], higher is better.

    At each scale the map (luminance counted at every scale) is raised to the scale's weight and averaged over the mask;
    the averages are multiplied. Volumes under 97 voxels a side are padded with their edges. Each scale is half the one
    before: means of voxels 2k - 1 and 2k along each axis, 0 before the first; of the mask, every second voxel.

    Args:
        prediction, target, mask: of one shape, 2D or 3D.
        finest: the average at the first scale, where it is known already.
    """
    missing = [max(MS_SSIM_LEAST - side, 0) for side in target.shape]
    margins = [(count // 2, count - count // 2) for count in missing]
    if any(missing):
        prediction, target, mask = (np.pad(array, margins, mode="edge") for array in (prediction, target, mask))
    product = 1.0
    for level, weight in enumerate(SCALE_WEIGHTS):
        if level:
            prediction, target = halved(prediction), halved(target)
            mask = mask[(slice(None, None, 2),) * mask.ndim]
        if level or finest is None or any(missing):
            finest = masked_means(prediction, target, mask, [Similarity(data_range, weight)])[0]
        product *= min(max(finest, 0.0), 1.0)
    return product


def masked_means(prediction: NDArray, target: NDArray, mask: Mask, kinds: list[Similarity]) -> list[float]:
    """Means over the mask of several kinds of structural similarity, whose local moments are computed once.

    The covariances are those of a sample: n / (n - 1) times the population's.
    """
    # for a head of 128^3 voxels 26 ms; scikit-image's `structural_similarity(full=True)` takes 539 ms, MONAI 1,514 ms
    if min(target.shape) < UNIFORM_WINDOW:
        raise CannotMeasure(f"shape {target.shape}, structural similarity needs {UNIFORM_WINDOW} voxels a side")
    inside = mask[(slice(BORDER, -BORDER),) * mask.ndim]
    if not inside.any():
        raise CannotMeasure("the mask has no voxel farther than 3 from the border")
    sums, box = np.zeros(len(kinds)), _bounding_box(inside)
    for start in range(box[0].start, box[0].stop, SLAB):
        slab = (slice(start, min(start + SLAB, box[0].stop)), *box[1:])
        selected = inside[slab]
        if not selected.any():
            continue
        wider = tuple(slice(part.start, part.stop + 2 * BORDER) for part in slab)
        moments = _moments(*(volume[wider].astype(np.float64, copy=False) for volume in (prediction, target)), selected)
        sums += [_similarity(*moments, kind, UNIFORM_WINDOW**mask.ndim).sum() for kind in kinds]
    return (sums / np.count_nonzero(inside)).tolist()


def halved(volume: NDArray) -> Array:
    """Means of voxels 2k - 1 and 2k along each axis, the one before the first being 0."""
    for axis in range(volume.ndim):
        volume = np.moveaxis(volume, axis, 0)
        half = volume[::2].astype(np.float64)
        half[1:] += volume[1:-1:2]
        volume = np.moveaxis(half / 2, 0, axis)
    return volume


def _moments(prediction: Array, target: Array, selected: Mask) -> tuple[Array, ...]:
    """Of the windows round the selected voxels: both means, mean sum of squares, mean product."""
    squares = prediction * prediction
    squares += target * target
    maps = (prediction, target, squares, prediction * target)
    chosen = ... if selected.all() else selected  # selecting costs as much as a sum
    return tuple(_window_means(values)[chosen] for values in maps)


def _similarity(mean_a: Array, mean_b: Array, squares: Array, products: Array, kind: Similarity, voxels: int) -> Array:
    c1, c2 = (K1 * kind.data_range) ** 2, (K2 * kind.data_range) ** 2
    sample = voxels / (voxels - 1)
    product, square = mean_a * mean_b, mean_a * mean_a
    square += mean_b * mean_b
    found, likeness = products - product, product
    for values, factor, constant in ((found, 2 * sample, c2), (likeness, 2, c1)):
        values *= factor
        values += constant
    found *= likeness
    spread = squares - square
    spread *= sample
    spread += c2
    square += c1
    found /= np.multiply(spread, square, out=spread)
    return found if kind.exponent is None else np.power(np.maximum(found, 0, out=found), kind.exponent, out=found)


def _window_means(values: Array) -> Array:
    """Means over 7 voxels along each axis, where they fit."""
    for axis in range(values.ndim):
        rows = np.moveaxis(values, axis, 0)
        two = rows[:-1] + rows[1:]
        four = two[:-2] + two[2:]
        seven = four[:-3] + two[4:-1]
        seven += rows[6:]
        values = np.moveaxis(seven, 0, axis)
    values /= UNIFORM_WINDOW**values.ndim
    return values


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        present = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(present[0]), int(present[-1]) + 1))
    return tuple(box)
