"""How well label maps agree, class by class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray

from medsynth.data.preprocessing.label_slices import LEAST_LABELLED

PERCENTILE = 95

Maps = NDArray[np.uint8]
"""(N, H, W), indices of the classes, 0 for the background."""


def dice(found: Maps, true: Maps, rows: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """(subjects, classes - 1): Dice of each class but the background in all images of a subject.

    From 0 to 1, higher is better; NaN where a subject has nothing of a class.

    Args:
        rows: (N,), number of the subject of each image.
    """
    both, total, there = (np.zeros((rows.max() + 1, classes - 1)) for _ in range(3))
    for column in range(classes - 1):
        is_found, is_true = found == column + 1, true == column + 1
        for sums, pixels in ((both, is_found & is_true), (total, is_found), (total, is_true), (there, is_true)):
            np.add.at(sums[:, column], rows, pixels.sum(axis=(1, 2)))
    return np.divide(2 * both, total, out=np.full_like(both, np.nan), where=there > 0)


def hausdorff(
    found: Maps, true: Maps, rows: NDArray[np.int64], classes: int, pixel_mm: Sequence[float]
) -> NDArray[np.float64]:
    """(subjects, classes - 1): 95 % Hausdorff distance in mm of each class but the background, lower is better.

    Of each image, and the mean over a subject's images in which both label maps have the class: Dice tells where one
    misses it. NaN where there are none.

    Args:
        rows: (N,), number of the subject of each image.
        pixel_mm: between rows and columns.

    Reference: Taha and Hanbury, BMC Medical Imaging 15:29 (2015).
    """
    sums, counts = (np.zeros((rows.max() + 1, classes - 1)) for _ in range(2))
    for column in range(classes - 1):
        masks = [maps == column + 1 for maps in (found, true)]
        both = np.flatnonzero(masks[0].any(axis=(1, 2)) & masks[1].any(axis=(1, 2)))
        if not both.size:
            continue
        pair = (torch.from_numpy(mask[both])[:, None] for mask in masks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            away = compute_hausdorff_distance(
                *pair, include_background=True, percentile=PERCENTILE, spacing=list(pixel_mm)
            )
        np.add.at(sums[:, column], rows[both], away[:, 0].double().numpy())
        np.add.at(counts[:, column], rows[both], 1)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def areas(found: Maps, true: Maps, rows: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """(subjects, classes - 1): mean pixels of each class but the background in a subject's images that have labels.

    NaN where a subject has none whose `true` label map covers `LEAST_LABELLED` of the image.
    """
    sums, shown = np.zeros((rows.max() + 1, classes - 1)), (true > 0).mean(axis=(1, 2)) >= LEAST_LABELLED
    for column in range(classes - 1):
        np.add.at(sums[:, column], rows[shown], (found[shown] == column + 1).sum(axis=(1, 2)))
    counts = np.bincount(rows[shown], minlength=len(sums))[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
