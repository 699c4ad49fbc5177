"""Interpolation, the baseline of super-resolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from medsynth.nn.resampling import repeat, spline, zero_fill

Interpolation = Callable[[Tensor, int], Tensor]
"""(N, rows, columns) and a scale -> (N, scale * rows, scale * columns), of the same field of view."""


def bicubic(images: Tensor, scale: int) -> Tensor:
    """Cubic convolution (a = -0.5); what lies beyond the edge takes no part.

    Reference: Keys, IEEE Trans. Acoust. 29 (1981) 1153.
    """
    # antialias only picks a = -0.5 here: without it PyTorch takes -0.75, which is worse
    return F.interpolate(images[:, None].float(), scale_factor=scale, mode="bicubic", antialias=True)[:, 0]


def lanczos(images: Tensor, scale: int) -> Tensor:
    """Sinc in a window of three coarse pixels on each side, by Pillow.

    Reference: Duchon, J. Appl. Meteorol. 18 (1979) 1016.
    """
    size = (images.shape[2] * scale, images.shape[1] * scale)
    return torch.stack([_resized(image.numpy(), size) for image in images.float().cpu()])


INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": repeat,
    "bicubic": bicubic,
    "Lanczos": lanczos,
    "spline": spline,
    "zero-filling": zero_fill,
}


def _resized(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)).copy())
