"""Measures of an image against the true one: PSNR, SSIM and MS-SSIM, with the data range always stated."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from medsynth.evaluation.metrics.checks import unit_images

GAUSSIAN_WINDOW, SIGMA = 11, 1.5  # pixels; Wang et al. 2004
UNIFORM_WINDOW = 7  # pixels; leaves room for more scales in small images
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first; Wang et al. 2003


def psnr(fake: Tensor, real: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in dB; higher is better, infinite if identical.

    Args:
        fake, real: (N, C, H, W) or (N, C, D, H, W).
        data_range: largest less smallest possible value: 2 for [-1, 1].

    Returns: (N,) float64, one value per image.
    """
    fake, real = _pair(fake, real, data_range)
    return 10 * torch.log10(data_range**2 / (fake - real).square().flatten(1).mean(1))


def ssim(fake: Tensor, real: Tensor, data_range: float) -> Tensor:
    """Structural similarity, at most 1; higher is better, 1 is identical.

    scikit-image's, with a Gaussian window of 11 pixels, sigma 1.5, and population covariance; the mean over the pixels
    where the window fits.

    Args:
        fake, real: (N, C, H, W) or (N, C, D, H, W), at least 11 pixels a side.
        data_range: largest less smallest possible value: 2 for [-1, 1].

    Returns: (N,) float64, one value per image.

    Reference: Wang et al., IEEE Trans. Image Process. 13 (2004) 600.
    """
    fake, real = _pair(fake, real, data_range, GAUSSIAN_WINDOW)
    settings = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    pairs = zip(real.cpu().numpy(), fake.cpu().numpy(), strict=True)
    values = [structural_similarity(*pair, channel_axis=0, data_range=data_range, **settings) for pair in pairs]
    return torch.tensor(values, dtype=torch.float64, device=real.device)


def ms_ssim(fake: Tensor, real: Tensor, data_range: float) -> Tensor:
    """Structural similarity over scales, in [0, 1]; higher is better, 1 is identical.

    Uniform window of 7 pixels; each scale halves the image by means along each axis. Images below 112 pixels a side
    have no room for the five scales of the paper: as many as fit are used, their weights scaled to sum 1 (four at 64
    pixels). A negative mean of the structure term counts as 0.

    Args:
        fake, real: (N, C, H, W) or (N, C, D, H, W), at least 7 pixels a side.
        data_range: largest less smallest possible value: 2 for [-1, 1].

    Returns: (N,) float64, one value per image.

    Reference: Wang et al., Asilomar 2003, 1398.
    """
    fake, real = _pair(fake, real, data_range, UNIFORM_WINDOW)
    scales = sum(min(real.shape[2:]) // 2**i >= UNIFORM_WINDOW for i in range(len(SCALE_WEIGHTS)))
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    halved = F.avg_pool2d if real.ndim == 4 else F.avg_pool3d
    product = torch.ones(len(real), dtype=torch.float64, device=real.device)
    for scale, weight in enumerate(weights):  # MONAI's own loop refuses images of 56 to 62 pixels
        whole, structure = _similarity(fake, real, data_range)
        similarity = structure if scale < scales - 1 else whole
        product = product * similarity.flatten(1).mean(1).clamp(min=0) ** weight
        fake, real = halved(fake, 2), halved(real, 2)
    return product


def _similarity(fake: Tensor, real: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Maps of SSIM and of its contrast and structure; MONAI's of a uniform window, which takes three times as long."""
    luminance, contrast = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    squares = _means(torch.cat([fake, real, fake * fake, real * real, fake * real], dim=1))
    fake_mean, real_mean, fake_square, real_square, product = squares.chunk(5, dim=1)
    covariance = product - fake_mean * real_mean
    variances = fake_square - fake_mean**2 + real_square - real_mean**2
    structure = (2 * covariance + contrast) / (variances + contrast)
    bright = (2 * fake_mean * real_mean + luminance) / (fake_mean**2 + real_mean**2 + luminance)
    return bright * structure, structure


def _means(images: Tensor) -> Tensor:
    """Over the uniform window, axis by axis, where it fits."""
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    for axis in range(images.ndim - 2):
        images = pool(images, [UNIFORM_WINDOW if other == axis else 1 for other in range(images.ndim - 2)], stride=1)
    return images


def ms_ssim_pairs(images: ArrayLike, seed: int, pairs: int = 2000) -> float:
    """Mean MS-SSIM of random pairs of a set (diversity), in [0, 1]; best near the real set's: above it, too alike.

    Args:
        images: (N, H, W) or (N, D, H, W) floats in [0, 1].
        seed: of the pairs.
        pairs: how many.
    """
    shape = np.shape(images)
    checked = unit_images(np.reshape(images, (*shape[:1], -1, *shape[-1:])), "images")
    images = torch.from_numpy(checked.reshape(shape))[:, None]
    rng = np.random.default_rng(seed)
    first = rng.integers(len(images), size=pairs)
    second = (first + rng.integers(1, len(images), size=pairs)) % len(images)  # never the image itself
    chunks = np.array_split(np.arange(pairs), max(pairs // 50, 1))
    return torch.cat([ms_ssim(images[first[c]], images[second[c]], data_range=1.0) for c in chunks]).mean().item()


def _pair(fake: Tensor, real: Tensor, data_range: float, window: int = 1) -> tuple[Tensor, Tensor]:
    if fake.shape != real.shape or real.ndim not in (4, 5):
        raise ValueError(f"shapes {tuple(fake.shape)} and {tuple(real.shape)}, needs two equal (N, C, [D,] H, W)")
    if min(real.shape[2:]) < window:
        raise ValueError(f"images are {tuple(real.shape[2:])}, needs at least {window} pixels a side")
    if not data_range > 0:
        raise ValueError(f"data_range {data_range}, needs the largest less the smallest possible value, above 0")
    return fake.double(), real.double()
