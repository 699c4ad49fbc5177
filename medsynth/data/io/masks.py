"""Masks of images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from monai.transforms import Orientation
from numpy.typing import NDArray

from medsynth.data.io import itk
from medsynth.data.io.sources import Source, read_volume
from medsynth.errors import MedsynthError

SAME_MM = 1e-3  # up to which two affines are the same


def read_mask(
    source: Source | str | os.PathLike, shape: Sequence[int], affine: NDArray
) -> tuple[NDArray[np.bool_], str | None]:
    """A mask on the grid of its image.

    Args:
        source: of the mask.
        shape, affine: of the image: (X, Y, Z), and (4, 4) to right-anterior-superior mm.

    Returns: (X, Y, Z), and, where the mask was resampled, a line that follows the file's name; else None.

    Raises:
        MedsynthError: it cannot be read, is empty, or holds more than two values, in words that follow the file's name.
    """
    image = Orientation("".join(nib.aff2axcodes(affine)), labels=None)(read_volume(source))
    values, own = image[0].numpy(), image.affine.numpy()
    found = np.unique(values)
    if not np.isfinite(found).all() or len(found) > 2 or found[0] < 0:
        raise MedsynthError(
            f"is no mask: it holds {len(found)} values from {found[0]:g} to {found[-1]:g}, and 0 and one other are "
            "needed"
        )
    mask, note = values > 0, None
    if mask.shape != tuple(shape) or not np.allclose(own, affine, atol=SAME_MM):
        note = (
            f"has another grid ({' x '.join(map(str, mask.shape))}) than its image ({' x '.join(map(str, shape))}): "
            "it is resampled"
        )
        mask = itk.resample(mask.astype(np.float32), own, shape, affine, outside=0.0) >= 0.5
    if not mask.any():
        where = " where its image is" if note and values.any() else ""
        raise MedsynthError(f"is an empty mask{where}: give one that is above 0 inside the patient")
    return mask, note
