"""Thick slices of one field of view, and the finer rows that they are weighted means of.

Rows are the axis that the slices follow one another on; columns stay as they are. The slices and the fine grid share
their outer edges: of n rows and m slices, the centre of slice j lies at (j + 1/2) n / m - 1/2 rows, whether or not
n / m is whole. All functions take (..., slices or rows, columns) and compute in float32.

A profile says how much each place across a slice gives to it: `box`, even over the thickness, `gaussian`, or weights,
of equally wide parts in the order of the rows. Its full width at half maximum is the thickness, and the middle of that
width the centre of the slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from scipy.special import erf
from torch import Tensor

Profile = str | Sequence[float]

PROFILES = ("box", "gaussian")
ROUNDS = 30  # of corrections by factors
TINY = 1e-6  # what is 0 is taken for, so that factors can change it
SMALLEST = 1e-3  # of the singular values of a profile, relative to the largest: what is below is not measured


def is_profile(kind: object) -> bool:
    """Whether it is that of thick slices: one of `PROFILES`, or a list, of whatever it may be."""
    return isinstance(kind, (list, tuple)) or kind in PROFILES


def to_slices(images: Tensor, slices: int, profile: Profile, fill: float) -> Tensor:
    """(..., rows, columns) -> (..., slices, columns): what a scan of such slices measures.

    Args:
        profile: one of `PROFILES`, or weights.
        fill: thickness over the distance between slices: below 1 there are gaps, above 1 slices overlap.
    """
    return _times(profile_weights(images.shape[-2], slices, profile, fill), images)


def from_slices(images: Tensor, rows: int) -> Tensor:
    """(..., slices, columns) -> (..., rows, columns), by cubic B-splines through the slices; mirrored at the ends."""
    return _times(_spline_weights(images.shape[-2], rows), images)


def repeat_slices(images: Tensor, rows: int) -> Tensor:
    """(..., slices, columns) -> (..., rows, columns), each row that of the slice whose centre is nearest."""
    slices = images.shape[-2]
    nearest = ((torch.arange(rows, device=images.device) + 0.5) * slices / rows).long()
    return images.float().index_select(-2, nearest.clamp(max=slices - 1))


def put_back(slices: Tensor, fine: Tensor, profile: Profile, fill: float) -> Tensor:
    """The image nearest to `fine` (..., rows, columns) whose `to_slices` are these (..., slices, columns).

    Where slices overlap so much that the profile passes next to nothing of what differs between neighbours, that part
    stays as it is in `fine`.
    """
    rows, count = fine.shape[-2], slices.shape[-2]
    inverse = _inverse(rows, count, _hashable(profile), fill)
    return fine + _times(inverse, slices - to_slices(fine, count, profile, fill))


def put_back_above(slices: Tensor, fine: Tensor, profile: Profile, fill: float, lowest: float) -> Tensor:
    """An image near to `fine` whose `to_slices` are about these, and that is nowhere below the lowest value.

    What is below is raised, and each row multiplied by how much brighter than measured the slices over it have become,
    again and again, which keeps it above.

    Reference: Richardson, J. Opt. Soc. Am. 62 (1972) 55; Lucy, Astron. J. 79 (1974) 745.
    """
    count, rows = slices.shape[-2], fine.shape[-2]
    weights = profile_weights(rows, count, profile, fill)
    over = weights.sum(0)
    shares = np.divide(weights, over, out=np.zeros_like(weights), where=over > TINY).T  # (rows, slices)
    measured, found = slices.float() - lowest + TINY, (fine.float() - lowest).clamp_min(TINY)
    for _ in range(ROUNDS):
        found = found * (1 + _times(shares, measured / to_slices(found, count, profile, fill) - 1))
    return (found + lowest).clamp_min(lowest)


def profile_weights(rows: int, slices: int, profile: Profile, fill: float) -> np.ndarray:
    """(slices, rows): what each fine row, averaged over its own thickness, gives to each slice; each slice's sum is 1.

    What of a slice lies beyond the field of view takes no part.
    """
    return _weights(rows, slices, _hashable(profile), fill)


@lru_cache(maxsize=64)
def _weights(rows: int, slices: int, profile: str | tuple[float, ...], fill: float) -> np.ndarray:
    step = rows / slices
    centres, edges = (np.arange(slices)[:, None] + 0.5) * step, np.arange(rows + 1)[None]
    weights = np.diff(_below((edges - centres) / (fill * step), profile), axis=1)
    return weights / weights.sum(1, keepdims=True)


def _below(places: np.ndarray, profile: str | tuple[float, ...]) -> np.ndarray:
    """What of a profile lies below places, in thicknesses from the slice's centre; not normalized."""
    if profile == "gaussian":
        return erf(2 * math.sqrt(math.log(2)) * places)
    parts = np.array([0, *((1,) if profile == "box" else profile), 0])
    half = parts.max() / 2
    first, last = np.flatnonzero(parts >= half)[[0, -1]]
    low = first - (parts[first] - half) / (parts[first] - parts[first - 1])
    high = last + (parts[last] - half) / (parts[last] - parts[last + 1])
    ends = np.arange(len(parts) - 1) + 0.5  # of the parts; their centres are at whole numbers
    return np.interp(places, (ends - (low + high) / 2) / (high - low), parts[:-1].cumsum())


@lru_cache(maxsize=64)
def _inverse(rows: int, slices: int, profile: str | tuple[float, ...], fill: float) -> np.ndarray:
    """(rows, slices): the smallest change of the rows that makes a given change of the slices."""
    return np.linalg.pinv(_weights(rows, slices, profile, fill), rcond=SMALLEST)


def _hashable(profile: Profile) -> str | tuple[float, ...]:
    return profile if isinstance(profile, str) else tuple(profile)


@lru_cache(maxsize=64)
def _spline_weights(slices: int, rows: int) -> np.ndarray:
    """(rows, slices): what each slice gives to each row."""
    places = (np.arange(rows) + 0.5) * slices / rows - 0.5
    lines = [ndimage.map_coordinates(line, [places], order=3, mode="reflect") for line in np.eye(slices)]
    return np.stack(lines, axis=1)


def _times(weights: np.ndarray, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return torch.from_numpy(weights).to(images.device, torch.float32) @ images.float()
