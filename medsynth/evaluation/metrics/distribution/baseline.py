"""What a Gaussian mixture in PCA space reaches in seconds: a generative network that loses to it has learned little."""

from __future__ import annotations

import numpy as np
from sklearn.mixture import GaussianMixture

from medsynth.evaluation.metrics.distribution.distances import fit_pca
from medsynth.evaluation.metrics.distribution.image_set import ImageSet

COMPONENTS = 200  # principal components
IMAGES_A_GAUSSIAN = 170  # with more, it does worse; with fewer, it begins to copy
MOST_GAUSSIANS = 20
LEAST_VARIANCE = 1e-3  # of a Gaussian along any axis


def pca_gmm(train: ImageSet, count: int, seed: int, components: int | None = None) -> ImageSet:
    """Images drawn from a mixture of Gaussians fitted to the training images' principal components.

    Positions and classes, where the training set has them, are drawn with the images: they are more coordinates of
    the mixture. Draws are independent of each other, as a generator's are.

    Args:
        train: the generator's training images.
        count: how many images.
        seed: of fit and samples.
        components: principal ones; None: as many as half of the images can tell, `COMPONENTS` at most.
    """
    components = components or min(COMPONENTS, len(train) // 2, train.images[0].size)
    pca = fit_pca(train.images, components)
    gaussians = max(1, min(MOST_GAUSSIANS, len(train) // IMAGES_A_GAUSSIAN))
    facts = _facts(train)
    points = np.concatenate([pca(train.images), facts], axis=1)
    mixture = GaussianMixture(gaussians, reg_covar=LEAST_VARIANCE, random_state=seed).fit(points)
    drawn = mixture.sample(count)[0][np.random.default_rng(seed).permutation(count)]
    images = pca.images(drawn[:, :components]).clip(0, 1)
    positions = drawn[:, components].clip(0, 1) if np.isfinite(train.positions).any() else None
    labels = None
    if train.classes:
        labels = np.array(train.classes)[drawn[:, components + 1 :].argmax(1)]
    return ImageSet(images, labels=labels, positions=positions, name="PCA-GMM")


def _facts(train: ImageSet) -> np.ndarray:
    """(N, 1 + classes): position, the mean where unknown, and 1 in the column of the class."""
    known = np.isfinite(train.positions)
    position = np.where(known, train.positions, train.positions[known].mean() if known.any() else 0.0)
    return np.stack([position, *(train.labels == label for label in train.classes)], axis=1).astype(np.float64)
