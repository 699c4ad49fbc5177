"""Distances between two sets of images without a network: patches, spectra, gradients, intensities."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsynth.evaluation.metrics.checks import CannotMeasure, same_size, unit_images

Images = NDArray[np.float32]

PATCH = 7  # pixels a side of a descriptor
COARSEST = 16  # pixels a side of the smallest level of the pyramid
FOREGROUND = 0.1  # of full scale: tissue is above it, air below
QUANTILES = 4096


def swd(
    real: ArrayLike, fake: ArrayLike, seed: int, patches_per_image: int = 128, projections: int = 512
) -> dict[int, float]:
    """Sliced Wasserstein distance of 7 x 7 patches, a value for each level of a Laplacian pyramid, x 1e3.

    Two choices differ from the paper's code. Patches of both sets are normalized by the real set's deviation at each
    level: each by its own would hide a loss of contrast, which is what blur is at the finest level. The pyramid halves
    by 2 x 2 means, which lets errors of the next scale through where a binomial filter removes them.

    Args:
        real, fake: (N, H, W) and (M, H, W) floats in [0, 1], at least 16 pixels a side. Of the larger set a random
            part is taken. The value falls as N grows: compare only values at the same N.
        seed: of the patches and of the directions.
        patches_per_image: random patches of each image at each level.
        projections: random directions.

    Returns: rows of a level -> distance, the finest level first; lower is better, 0 is identical.

    Reference: Karras et al., Progressive Growing of GANs, arXiv:1710.10196, section 5.
    """
    return {
        level.size: _sliced_wasserstein(level.real, level.fake, level.directions) / level.deviation
        for level in patch_levels(real, fake, seed, patches_per_image, projections)
    }


class PatchLevel(NamedTuple):
    """Random patches of both sets at one level of the pyramid.

    Attributes:
        size: rows of the level.
        real, fake: (N x patches, 49), image after image.
        directions: (projections, 49), of length 1.
        deviation: of all values of the real patches.
    """

    size: int
    real: Images
    fake: Images
    directions: Images
    deviation: float


def patch_levels(
    real: ArrayLike, fake: ArrayLike, seed: int, patches_per_image: int, projections: int
) -> Iterator[PatchLevel]:
    """What `swd` compares, the finest level first."""
    real, fake = _pair(real, fake)
    if min(real.shape[1:]) < COARSEST:
        raise CannotMeasure(f"images are {real.shape[1:]}: swd needs at least {COARSEST} pixels a side")
    rng = np.random.default_rng(seed)
    count = min(len(real), len(fake))
    pyramids = [_laplacian_pyramid(_random_part(images, count, rng)) for images in (real, fake)]
    for levels in zip(*pyramids, strict=True):
        directions = rng.standard_normal((projections, PATCH * PATCH), dtype=np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        real_patches, fake_patches = (_random_patches(level, patches_per_image, rng) for level in levels)
        deviation = float(real_patches.std(dtype=np.float64))
        if deviation == 0:
            raise CannotMeasure("real images are constant: there is no texture to compare")
        yield PatchLevel(levels[0].shape[1], real_patches, fake_patches, directions, deviation)


class Psd(NamedTuple):
    """In dB, 0 is best: RMS over all frequencies, and mean over the highest third (below 0: synthetic is smoother)."""

    rms: float
    top_third: float


def psd(real: ArrayLike, fake: ArrayLike) -> Psd:
    """Difference of the sets' mean radial power spectra (`radial_power_db`), synthetic less real.

    Args:
        real, fake: (N, H, W) and (M, H, W) floats in [0, 1].
    """
    real, fake = _pair(real, fake)
    return spectral_difference(radial_power_db(real), radial_power_db(fake))


def spectral_difference(real_db: NDArray[np.float64], fake_db: NDArray[np.float64]) -> Psd:
    """`psd` from two spectra in dB."""
    difference = fake_db - real_db
    return Psd(float(np.sqrt((difference**2).mean())), float(difference[-(len(difference) // 3) :].mean()))


def radial_power_db(images: Images) -> NDArray[np.float64]:
    """Mean power of (N, H, W) images at each radius from 1 cycle a side to Nyquist: (min(H, W) // 2,) in dB."""
    return decibels(radial_power(images).mean(0))


def radial_power(images: Images) -> NDArray[np.float64]:
    """(N, H, W) -> (N, min(H, W) // 2): power of each image, averaged over rings from 1 cycle a side to Nyquist."""
    height, width = images.shape[1:]
    side = min(height, width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    radius = np.rint(frequency * side).astype(int).ravel()
    power = [np.bincount(radius, (np.abs(np.fft.fft2(image)) ** 2).ravel()) for image in images]
    return (power / np.bincount(radius))[:, 1 : side // 2 + 1]


def decibels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """10 log10, finite for no power at all."""
    return 10 * np.log10(power + np.finfo(np.float32).tiny)


def gradient_ratio(real: ArrayLike, fake: ArrayLike) -> float:
    """Mean gradient magnitude of the fake images over that of the real ones (sharpness); 1 is best, below 1 is blurred.

    Args:
        real, fake: (N, H, W) and (M, H, W) floats in [0, 1].
    """
    real, fake = _pair(real, fake)
    sharpness = mean_gradients(real).mean()
    if sharpness == 0:
        raise CannotMeasure("real images are constant: they have no gradient to compare with")
    return float(mean_gradients(fake).mean() / sharpness)


def mean_gradients(images: Images) -> NDArray[np.float64]:
    """(N, H, W) -> (N,): mean gradient magnitude of each image."""
    down = np.diff(images, axis=1)[:, :, :-1]
    across = np.diff(images, axis=2)[:, :-1]
    return np.hypot(down, across).mean((1, 2), dtype=np.float64)


def intensity_w1(real: ArrayLike, fake: ArrayLike) -> float:
    """Wasserstein-1 distance of the intensities of the foreground (above 0.1), x 1e3; lower is better, 0 is identical.

    Args:
        real, fake: (N, H, W) and (M, H, W) floats in [0, 1].
    """
    real, fake = _pair(real, fake)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = []
    for images, name in ((real, "real"), (fake, "fake")):
        foreground = images[images > FOREGROUND]
        if not len(foreground):
            raise CannotMeasure(f"{name} images have no pixel above {FOREGROUND}: is their range [0, 1]?")
        quantiles.append(np.quantile(foreground, levels))
    return float(1e3 * np.abs(quantiles[0] - quantiles[1]).mean())


def _pair(real: ArrayLike, fake: ArrayLike) -> tuple[Images, Images]:
    real, fake = unit_images(real, "real images"), unit_images(fake, "fake images")
    same_size(real, fake)
    return real, fake


def _random_part(images: Images, count: int, rng: np.random.Generator) -> Images:
    return images if len(images) == count else images[np.sort(rng.permutation(len(images))[:count])]


def _laplacian_pyramid(images: Images) -> list[Images]:
    """Each level less the next one enlarged, down to one below 2 x COARSEST pixels a side, which stays as it is."""
    levels = []
    while min(images.shape[1:]) >= 2 * COARSEST and not any(side % 2 for side in images.shape[1:]):
        count, height, width = images.shape
        half = images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
        levels.append(images - half.repeat(2, axis=1).repeat(2, axis=2))
        images = half
    return [*levels, images]


def _random_patches(level: Images, per_image: int, rng: np.random.Generator) -> Images:
    """(N, H, W) -> (N x per_image, 49)."""
    windows = np.lib.stride_tricks.sliding_window_view(level, (PATCH, PATCH), axis=(1, 2))
    tops, lefts = (rng.integers(places, size=len(level) * per_image) for places in windows.shape[1:3])
    return windows[np.repeat(np.arange(len(level)), per_image), tops, lefts].reshape(-1, PATCH * PATCH)


def _sliced_wasserstein(real: Images, fake: Images, directions: Images) -> float:
    """Mean over (P, 49) directions of the Wasserstein-1 distance of two (M, 49) sets of patches, x 1e3."""
    total = 0.0
    for some in np.array_split(directions, max(len(directions) // 64, 1)):  # 64 at a time, to bound the memory
        distance = np.sort(some @ real.T, axis=1) - np.sort(some @ fake.T, axis=1)
        total += np.abs(distance).mean(axis=1).sum(dtype=np.float64)
    return float(1e3 * total / len(directions))
