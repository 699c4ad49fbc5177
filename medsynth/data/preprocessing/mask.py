"""Masks of the patient that come with the images."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from monai.transforms import Orientation

from medsynth.data.io import itk
from medsynth.data.io.sources import read_volume
from medsynth.errors import MedsynthError

SAME_GRID_MM = 1e-3


def read_mask(path: str, image: MetaTensor) -> tuple[np.ndarray, str | None]:
    """(X, Y, Z) on the grid of an image, true inside the patient, and a note if it had to be resampled (nearest).

    Args:
        path: of a volume with one value inside the patient and 0 outside.
        image: (1, X, Y, Z).

    Raises:
        MedsynthError: it is empty, has more values, lies elsewhere, or cannot be read; in words that follow the name of
            the image.
    """
    try:
        mask = read_volume(path)
    except MedsynthError as error:
        raise MedsynthError(f"has a mask that cannot be used: {path} {error}") from error
    low, high = float(mask.min()), float(mask.max())
    if low == high == 0:
        raise MedsynthError(f"has an empty mask, {path}: give one that is above 0 inside the patient, or leave it out")
    if low < 0 or bool(((mask != 0) & (mask != high)).any()):
        raise MedsynthError(
            f"has a mask with several values from {low:g} to {high:g}, {path}: give one that is 0 outside the patient "
            "and 1 inside"
        )
    mask = Orientation("".join(nib.aff2axcodes(image.affine.numpy())), labels=None)(mask)
    if mask.shape == image.shape and np.allclose(mask.affine, image.affine, rtol=0, atol=SAME_GRID_MM):
        return mask[0].numpy() > 0, None
    grids = [itk.image_of(one[0].numpy(), one.affine.numpy()) for one in (mask, image)]
    moved = itk.voxels_of(sitk.Resample(*grids, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    if not moved.any():
        raise MedsynthError(f"has a mask that lies elsewhere, {path}: give one that overlaps the image")
    return moved, "its mask is on another grid and was resampled, to the nearest voxel"
