"""Whether synthetic images are copies: of training images, or of each other.

Read these measures only for images that are good: images unlike any real one are no copies either. Passing is no proof
of anonymity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from medsynth.evaluation.metrics.checks import CannotMeasure, feature_rows, subject_of_each
from medsynth.evaluation.metrics.distribution.distances import squared_distances

Array = NDArray[np.float64]

ROWS = 256  # of a matrix of distances at a time, to bound the memory
COARSE = 32  # cells a side
NEAR_DUPLICATE = 0.25  # of the typical distance between images of different subjects that are most alike


class Nearest(NamedTuple):
    """Of each query: the squared distance to its nearest reference, and which one that is."""

    distance: Array
    index: NDArray[np.int64]


def nearest(
    queries: Array, references: Array, query_subjects: NDArray | None = None, subjects: NDArray | None = None
) -> Nearest:
    """The nearest reference of each query; with subjects, the nearest one of another subject.

    Args:
        queries, references: (N, D) and (M, D) features.
        query_subjects, subjects: (N,) and (M,).
    """
    found = []
    for start in range(0, len(queries), ROWS):
        some = slice(start, start + ROWS)
        distance = squared_distances(queries[some], references)
        if subjects is not None:
            distance[query_subjects[some, None] == subjects[None]] = np.inf
        index = distance.argmin(1)
        found.append((distance[np.arange(len(index)), index], index))
    return Nearest(*(np.concatenate(column) for column in zip(*found, strict=True)))


def closer_to_train(fake: ArrayLike, train: ArrayLike, held_out: ArrayLike) -> float:
    """Share of synthetic images nearer to a training image than to a held-out one; 0.5: no copying, 1: all copied.

    The larger of two sets from one distribution is the nearer one more often, by the ratio of the sizes. The odds are
    divided by that ratio, so that 0.5 means the same for all sizes.

    Args:
        fake, train, held_out: (N, D) features of the synthetic images, of those the generator was trained on, and of
            other subjects' that it never saw.
    """
    fake, train = feature_rows(fake, "fake features"), feature_rows(train, "training features")
    held_out = feature_rows(held_out, "held-out features")
    to_train, to_held_out = (nearest(fake, real).distance for real in (train, held_out))
    return share_nearer(to_train, to_held_out, len(train), len(held_out))


def share_nearer(to_train: Array, to_held_out: Array, train_count: float, held_out_count: float) -> float:
    """`closer_to_train` from (N,) distances to the nearest of each set and the sizes of the sets."""
    nearer = (to_train < to_held_out).mean() + 0.5 * (to_train == to_held_out).mean()
    to_train, to_held_out = nearer / train_count, (1 - nearer) / held_out_count
    return float(to_train / (to_train + to_held_out))


def authenticity(fake: ArrayLike, train: ArrayLike, train_subjects: ArrayLike) -> float:
    """Share of synthetic images farther from their nearest training image than that one is from other subjects' images.

    In [0, 1]; real images of new subjects have about 0.5, copies 0, images unlike any real one 1.

    Args:
        fake, train: (N, D) and (M, D) features.
        train_subjects: (M,), whose image each row of `train` is.

    Reference: Alaa et al., How faithful is your synthetic data?, arXiv:2102.08921, section 4.
    """
    return float(authentic(fake, train, train_subjects).mean())


def authentic(fake: ArrayLike, train: ArrayLike, train_subjects: ArrayLike) -> NDArray[np.bool_]:
    """Of each synthetic image, whether `authenticity` counts it."""
    fake, train = feature_rows(fake, "fake features"), feature_rows(train, "training features")
    subjects = subject_of_each(train_subjects, len(train), "train_subjects")
    found = nearest(fake, train)
    models, indices = np.unique(found.index, return_inverse=True)
    radius = nearest(train[models], train, subjects[models], subjects).distance
    return found.distance > radius[indices]


def membership_auc(fake: ArrayLike, train: ArrayLike, held_out: ArrayLike) -> float:
    """How well an attacker who has the synthetic images separates training images from held-out ones.

    The attacker's score is minus the distance of a real image to the nearest synthetic one. Area under the ROC curve:
    0.5 at chance, 1 if always right.

    Reference: Chen et al., GAN-Leaks, arXiv:1909.03935, section 4.2.
    """
    fake, train = feature_rows(fake, "fake features"), feature_rows(train, "training features")
    held_out = feature_rows(held_out, "held-out features")
    scores = np.concatenate([-nearest(real, fake).distance for real in (train, held_out)])
    return float(roc_auc_score(np.repeat([1, 0], [len(train), len(held_out)]), scores))


def duplicated(fake: ArrayLike, real: ArrayLike, real_subjects: ArrayLike) -> NDArray[np.bool_]:
    """Of each synthetic image, whether another synthetic image is nearly the same.

    Nearly the same: nearer than a quarter of what is typical (the median) of a real image and the most similar one of
    another subject.

    Args:
        fake: (N, D) features.
        real, real_subjects: (M, D) and (M,) of real images.
    """
    fake, real = feature_rows(fake, "fake features"), feature_rows(real, "real features")
    subjects = subject_of_each(real_subjects, len(real), "real_subjects")
    typical = np.median(nearest(real, real, subjects, subjects).distance)
    own = np.arange(len(fake))
    return nearest(fake, fake, own, own).distance <= NEAR_DUPLICATE**2 * typical


class Pair(NamedTuple):
    """A synthetic image and the training image nearest to it.

    Attributes:
        synthetic, train: indices into the sets.
        distance: between their features.
        usual: distance of that training image to the nearest one of another subject.
    """

    synthetic: int
    train: int
    distance: float
    usual: float

    @property
    def is_copy(self) -> bool:
        """Whether they are nearly the same: nearer than a quarter of what is usual."""
        return self.distance <= NEAR_DUPLICATE * self.usual


def nearest_pairs(fake: Array, train: Array, train_subjects: NDArray, count: int = 16) -> list[Pair]:
    """The synthetic images that come nearest to a training image, nearest first, each training image once."""
    pairs = {pair.train: pair for pair in reversed(all_pairs(fake, train, train_subjects))}
    return sorted(pairs.values(), key=lambda pair: pair.distance)[:count]


def coarse_pixels(images: NDArray[np.float32]) -> Array:
    """Images (N, H, W) -> (N, D), their means over a grid of `COARSE` x `COARSE`: features of any number of images."""
    side = min(COARSE, *images.shape[1:])
    return F.adaptive_avg_pool2d(torch.from_numpy(images)[:, None], side).flatten(1).double().numpy()


def all_pairs(fake: Array, train: Array, train_subjects: NDArray) -> list[Pair]:
    """Each synthetic image and the training image nearest to it, nearest first; of any number of images."""
    if len(np.unique(train_subjects)) < 2:
        raise CannotMeasure("training images of one subject only: nothing to compare a distance with")
    found = nearest(fake, train)
    order = np.argsort(found.distance, kind="stable")
    models = found.index[order]
    unique, indices = np.unique(models, return_inverse=True)
    usual = nearest(train[unique], train, train_subjects[unique], train_subjects).distance[indices]
    distances = np.sqrt(found.distance[order])
    return [
        Pair(*row)
        for row in zip(order.tolist(), models.tolist(), distances.tolist(), np.sqrt(usual).tolist(), strict=True)
    ]
