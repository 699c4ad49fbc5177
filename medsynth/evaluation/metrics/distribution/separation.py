"""Separation of classes in a space of features or latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import balanced_accuracy_score, silhouette_score

from medsynth.evaluation.metrics.checks import CannotMeasure, feature_rows
from medsynth.evaluation.metrics.distribution.distances import squared_distances

NEIGHBOURS = 15
LEAST = 10  # points of a class


class Separation(NamedTuple):
    """Of classes in a space.

    Attributes:
        silhouette: mean silhouette, -1 to 1; 0: the classes lie in one another.
        knn_accuracy: balanced accuracy of the 15 nearest neighbours' vote, 0 to 1.
        chance: balanced accuracy of guessing.
    """

    silhouette: float
    knn_accuracy: float
    chance: float


def separation(features: ArrayLike, labels: ArrayLike, subjects: ArrayLike | None = None) -> Separation:
    """How well the classes of points are separated; a point's neighbours of the same subject are not counted.

    Args:
        features: (N, D).
        labels: (N,), "" where unknown: such points are left out.
        subjects: (N,); None: each point is a subject of its own.
    """
    features, labels = feature_rows(features, "features"), np.asarray(labels, dtype=str)
    known = labels != ""
    subjects = np.arange(len(features)) if subjects is None else np.asarray(subjects)
    features, labels, subjects = features[known], labels[known], subjects[known]
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise CannotMeasure(f"{len(names)} class(es), needs 2 or more")
    if counts.min() < LEAST:
        raise CannotMeasure(f"{counts.min()} images of class {names[counts.argmin()]}, needs {LEAST} or more")
    votes = _votes(features, codes, subjects, counts)
    return Separation(
        silhouette=float(silhouette_score(features, codes)),
        knn_accuracy=float(balanced_accuracy_score(codes, votes)),
        chance=1 / len(names),
    )


def _votes(features: NDArray, codes: NDArray, subjects: NDArray, counts: NDArray) -> NDArray:
    """(N,) the class that a point's nearest neighbours speak for, each class weighted by its rarity."""
    distance = squared_distances(features, features)
    distance[subjects[:, None] == subjects[None]] = np.inf
    neighbours = min(NEIGHBOURS, len(features) - 1)
    nearest = np.argpartition(distance, neighbours - 1, axis=1)[:, :neighbours]
    reachable = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
    weights = np.where(reachable, 1 / counts[codes[nearest]], 0)
    return np.stack([(weights * (codes[nearest] == code)).sum(1) for code in range(len(counts))], axis=1).argmax(1)
