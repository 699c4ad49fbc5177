"""Sets of images with what is known of each image, checked where they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.checks import RANGE_TOLERANCE

LEVELS = 255  # steps from black to white, as pictures of 8 bits have


class ImageSet:
    """Images and the subject, class and position of each.

    Args:
        images: (N, H, W) in [0, 1], N at least 1; all are rounded alike, for a classifier would tell by the rounding.
        subjects: (N,), whose image each is; None: each is a subject of its own, as synthetic images are.
        labels: (N,) classes, None or "" where unknown; None: all unknown.
        positions: (N,) in [0, 1], NaN where unknown; None: all unknown.
        name: what messages call it.

    Raises:
        MedsynthError: images that cannot be measured, or a list of another length.
    """

    def __init__(
        self,
        images: ArrayLike,
        subjects: Sequence[str] | NDArray | None = None,
        labels: Sequence[str | None] | NDArray | None = None,
        positions: ArrayLike | None = None,
        name: str = "images",
    ) -> None:
        self.name = name
        self.images = _unit_images(images, name)
        count = len(self.images)
        self.subjects = np.array([str(s) for s in (range(count) if subjects is None else subjects)])
        self.labels = np.array(
            ["" if label is None else str(label) for label in ([""] * count if labels is None else labels)]
        )
        self.positions = np.full(count, np.nan) if positions is None else np.asarray(positions, np.float64)
        for column, values in (("subjects", self.subjects), ("labels", self.labels), ("positions", self.positions)):
            if values.shape != (count,):
                raise MedsynthError(f"{name}: {len(values)} {column} for {count} images: give one for each image")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at `indices`, with what is known of them."""
        columns = (self.images, self.subjects, self.labels, self.positions)
        return ImageSet(*(column[indices] for column in columns), name=self.name)

    @property
    def subject_count(self) -> int:
        """How many different subjects there are."""
        return len(np.unique(self.subjects))

    @property
    def classes(self) -> list[str]:
        """The known classes, sorted."""
        return sorted(set(self.labels.tolist()) - {""})

    def digest(self) -> str:
        """SHA-256 of the images and of all that is known of them."""
        content = hashlib.sha256(repr(self.images.shape).encode())
        for column in (self.images, self.subjects, self.labels, self.positions):
            content.update(np.ascontiguousarray(column).tobytes())
        return content.hexdigest()


def random_indices(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` different indices below `total`, ascending; all of them if there are no more."""
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def _unit_images(images: ArrayLike, name: str) -> NDArray[np.float32]:
    array = np.asarray(images)
    if array.ndim != 3 or not array.size:
        raise MedsynthError(f"{name}: an array of shape {array.shape}, needs (images, rows, columns): give images")
    if not np.issubdtype(array.dtype, np.floating):
        raise MedsynthError(f"{name}: {array.dtype} values, needs floats in [0, 1]: divide by the full scale first")
    broken = ~np.isfinite(array).all((1, 2))
    if broken.any():
        first = np.flatnonzero(broken)[0]
        raise MedsynthError(
            f"{name}: {broken.sum()} of {len(array)} images hold NaN or infinity, first number {first}: leave them out"
        )
    low, high = array.min(), array.max()
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise MedsynthError(
            f"{name}: values from {low:g} to {high:g}, needs [0, 1]: scale both sets in the same way first"
        )
    return np.rint(array.clip(0, 1) * np.float32(LEVELS)).astype(np.float32) / np.float32(LEVELS)
