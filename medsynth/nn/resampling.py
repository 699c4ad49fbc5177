"""Resampling between a coarse and a fine grid of one field of view, along rows and columns.

Both grids share their outer edges, not their first pixel: coarse pixel j covers the fine pixels s j to s j + s - 1, and
its centre lies at s j + (s - 1) / 2 in fine pixels. All functions take (..., rows, columns) and compute in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def truncate(images: Tensor, scale: int) -> Tensor:
    """Downsample by k-space truncation: keep the lowest 1 / `scale` of the frequencies, as a scan of that matrix would.

    Rows and columns must be multiples of `scale`. Of an even number, the outermost frequency is measured on one side
    only, as in a scanner; the real part is kept.
    """

    def one_axis(images: Tensor, axis: int) -> Tensor:
        size = images.shape[axis] // scale
        spectrum = torch.fft.rfft(images, dim=axis).narrow(axis, 0, size // 2 + 1)
        return torch.fft.irfft(spectrum * _half_pixel(size, scale, axis, images), n=size, dim=axis) / scale

    return _both_axes(images, one_axis)


def zero_fill(images: Tensor, scale: int, outermost: float = 0.5) -> Tensor:
    """Upsample by zero filling of k-space (sinc interpolation). The image is taken to be periodic.

    Args:
        outermost: weight of the highest frequency of an even number of pixels: it stands for two of the fine image.
    """

    def one_axis(images: Tensor, axis: int) -> Tensor:
        size = images.shape[axis]
        spectrum = torch.fft.rfft(images, dim=axis) * _half_pixel(size, scale, axis, images).conj()
        if size % 2 == 0:
            spectrum.narrow(axis, size // 2, 1).mul_(outermost)
        return torch.fft.irfft(spectrum, n=scale * size, dim=axis) * scale

    return _both_axes(images, one_axis)


def average(images: Tensor, scale: int) -> Tensor:
    """Downsample by the mean over each coarse pixel's area."""
    return F.avg_pool2d(images.float().reshape(-1, 1, *images.shape[-2:]), scale).reshape(
        *images.shape[:-2], images.shape[-2] // scale, images.shape[-1] // scale
    )


def repeat(images: Tensor, scale: int) -> Tensor:
    """Upsample by nearest neighbours: the smallest image in the mean square whose `average` is the coarse image."""
    return images.float().repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def spline(images: Tensor, scale: int) -> Tensor:
    """Upsample by cubic B-splines through the coarse pixels; mirrored at the edges.

    Reference: Unser, IEEE Signal Process. Mag. 16 (1999) 22.
    """
    rows, columns = (_spline_weights(size, scale).to(images.device) for size in images.shape[-2:])
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images.float() @ columns.T


def _both_axes(images: Tensor, one_axis: Callable[[Tensor, int], Tensor]) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return one_axis(one_axis(images.float(), -2), -1)


def _half_pixel(size: int, scale: int, axis: int, like: Tensor) -> Tensor:
    """The phases, one a frequency, that move the origin from the first fine pixel to the first coarse one."""
    shift = (scale - 1) / (2 * scale)  # in coarse pixels
    angle = 2 * torch.pi * torch.fft.rfftfreq(size, device=like.device) * shift
    return torch.polar(torch.ones_like(angle), angle).reshape(-1, *[1] * (-axis - 1))


@lru_cache(maxsize=64)
def _spline_weights(size: int, scale: int) -> Tensor:
    """(scale * size, size): what each coarse pixel of a line gives to each fine one."""
    weights = ndimage.zoom(np.eye(size), (scale, 1), order=3, mode="reflect", grid_mode=True)
    return torch.from_numpy(weights).float()
