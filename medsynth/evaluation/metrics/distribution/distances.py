"""Distances between two sets of feature vectors: Fréchet, kernel (MMD), and precision, recall, density, coverage."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA

from medsynth.evaluation.metrics.checks import CannotMeasure, feature_rows, subject_of_each, unit_images

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PcaFeatures:
    """Principal components of a set of images; call it on images for their features.

    Args:
        mean: (H, W), the mean image.
        axes: (components, H, W), orthonormal, the widest first.
        variance: (components,), of the fitted images along each axis.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    variance: NDArray[np.float32]

    def __call__(self, images: ArrayLike) -> Array:
        """(N, H, W) floats in [0, 1] -> (N, components)."""
        images = unit_images(images, "images")
        if images.shape[1:] != self.mean.shape:
            raise CannotMeasure(f"images are {images.shape[1:]}, the components were fitted to {self.mean.shape}")
        centred = (images - self.mean).reshape(len(images), -1)
        return (centred @ self.axes.reshape(len(self.axes), -1).T).astype(np.float64)

    def images(self, features: ArrayLike) -> NDArray[np.float32]:
        """(N, components) -> (N, H, W), not clipped: the projection of an image onto the components."""
        flat = np.asarray(features, np.float32) @ self.axes.reshape(len(self.axes), -1)
        return flat.reshape(-1, *self.mean.shape) + self.mean


def fit_pca(images: ArrayLike, components: int) -> PcaFeatures:
    """Principal components of (N, H, W) floats in [0, 1]; the same every time."""
    images = unit_images(images, "images")
    if not 1 <= components <= min(len(images) - 1, images[0].size):
        raise CannotMeasure(f"{components} components of {len(images)} images of {images[0].size} pixels: too many")
    fitted = PCA(components, svd_solver="randomized", random_state=0).fit(images.reshape(len(images), -1))
    size = images.shape[1:]
    return PcaFeatures(fitted.mean_.reshape(size), fitted.components_.reshape(-1, *size), fitted.explained_variance_)


def gaussian_frechet(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    The trace of (A B)^(1/2) is taken as that of the symmetric (A^(1/2) B A^(1/2))^(1/2), so that nothing becomes
    complex for a singular covariance.

    Reference: Dowson and Landau, J. Multivariate Anal. 12 (1982) 450; Heusel et al., arXiv:1706.08500.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(max(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0.0))


def frechet_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Fréchet distance of two (N, D) sets of features: squared units of the features; lower is better, 0 is identical.

    It grows as a set gets smaller: compare only values at the same N.
    """
    real, fake = _pair(real, fake)
    moments = (real.mean(0), np.atleast_2d(np.cov(real.T)), fake.mean(0), np.atleast_2d(np.cov(fake.T)))
    return gaussian_frechet(*moments)


def frechet_percent(real: ArrayLike, fake: ArrayLike, train: ArrayLike) -> float:
    """Fréchet distance in per cent of the total variance of the training images' features; lower is better."""
    train = feature_rows(train, "training features")
    variance = train.var(0, ddof=1).sum()
    if variance == 0:
        raise CannotMeasure("training features are all the same: they have no variance to measure a distance by")
    return 100 * frechet_distance(real, fake) / variance


def kid(real: ArrayLike, fake: ArrayLike) -> float:
    """Unbiased squared MMD of two (N, D) sets under the cubic kernel (x.y / D + 1)^3, x 1e3; lower is better.

    0 on average for two sets of one distribution, so it may be negative. Features count by their size: standardize
    them first.

    Reference: Binkowski et al., Demystifying MMD GANs, arXiv:1801.01401.
    """
    real, fake = _pair(real, fake)
    within = _cubic_mean_off_diagonal(real) + _cubic_mean_off_diagonal(fake)
    return float(1e3 * (within - 2 * cubic_kernel(real, fake).mean()))


class Prdc(NamedTuple):
    """Shares in [0, 1], higher is better, except density, which may pass 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, real_subjects: ArrayLike, k: int = 5) -> Prdc:
    """Precision, recall, density and coverage by balls that reach to the k-th neighbour.

    Slices of one subject are near copies of each other, so the ball round a real image reaches to the k-th nearest
    image *of other subjects*. Synthetic images have no subject: each counts as its own.

    Args:
        real, fake: (N, D) and (M, D) features; the values depend on N and M, so compare at the same ones.
        real_subjects: (N,), whose image each row of `real` is.
        k: which neighbour.

    Reference: Kynkaanniemi et al., arXiv:1904.06991; Naeem et al., arXiv:2002.09797.
    """
    real, fake = _pair(real, fake)
    subjects = subject_of_each(real_subjects, len(real), "real_subjects")
    real_radius = kth_neighbour(real, subjects, k)
    fake_radius = kth_neighbour(fake, np.arange(len(fake)), k)
    distance = squared_distances(real, fake)
    in_real_ball = distance < real_radius[:, None]
    return Prdc(
        precision=float(in_real_ball.any(0).mean()),
        recall=float((distance < fake_radius[None]).any(1).mean()),
        density=float(in_real_ball.sum(0).mean() / k),
        coverage=float((distance.min(1) < real_radius).mean()),
    )


def squared_distances(a: Array, b: Array) -> Array:
    """(N, D), (M, D) -> (N, M) squared Euclidean distances."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return squares.clip(0, out=squares)


def kth_neighbour(features: Array, subjects: NDArray, k: int) -> Array:
    """(N, D) -> (N,), the squared distance from each row to its k-th nearest row of another subject."""
    distance = squared_distances(features, features)
    distance[subjects[:, None] == subjects[None]] = np.inf
    if k >= len(features):
        raise CannotMeasure(f"{len(features)} images, needs more than k = {k}")
    radius = np.partition(distance, k - 1, axis=1)[:, k - 1]
    if np.isinf(radius).any():
        raise CannotMeasure(f"a subject has fewer than k = {k} images of other subjects to compare with")
    return radius


def _pair(real: ArrayLike, fake: ArrayLike) -> tuple[Array, Array]:
    real, fake = feature_rows(real, "real features"), feature_rows(fake, "fake features")
    if real.shape[1] != fake.shape[1]:
        raise CannotMeasure(f"real features have {real.shape[1]} values a row and fake ones {fake.shape[1]}")
    return real, fake


def cubic_kernel(a: Array, b: Array) -> Array:
    """(N, D), (M, D) -> (N, M) values of (x.y / D + 1)^3."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _cubic_mean_off_diagonal(a: Array) -> float:
    kernel, n = cubic_kernel(a, a), len(a)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
