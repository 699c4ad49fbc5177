"""Binary cross-entropy, ROC AUC and F1 of grey values: what some translation papers report.

They treat an image as a map of probabilities and ask of each voxel only whether it is in the upper half of the data
range. They say little about an image and are here for comparison with such papers; nothing else should rest on them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 65536
LEAST_PROBABILITY = 1e-7


def binary_scores(prediction: NDArray, target: NDArray, data_range: tuple[float, float]) -> dict[str, float]:
    """`binary_bce` (lower is better), and `binary_auc` and `binary_f1` (higher is better) of (voxels,) values.

    Values become [0, 1] over the data range. BCE is that of the prediction as probability against the target as it is;
    for AUC and F1 the target is 1 above 0.5, and for F1 the prediction too. AUC and F1 are left out where the target
    has only one of the two. The AUC is from 65536 grey levels.
    """
    low, high = data_range
    p, t = (((values - low) / (high - low)).clip(0, 1).astype(np.float32) for values in (prediction, target))
    sure = p.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    scores = {"binary_bce": float(-(t * np.log(sure) + (1 - t) * np.log1p(-sure)).mean(dtype=np.float64))}
    bright = t > 0.5
    if not bright.any() or bright.all():
        return scores
    found = p > 0.5
    scores["binary_f1"] = float(2 * (found & bright).sum() / (found.sum() + bright.sum()))
    levels = np.rint(p * (LEVELS - 1)).astype(np.int64)
    positive, negative = (np.bincount(levels[where], minlength=LEVELS).astype(float) for where in (bright, ~bright))
    below = negative.cumsum() - 0.5 * negative
    scores["binary_auc"] = float(positive @ below / (positive.sum() * negative.sum()))
    return scores
