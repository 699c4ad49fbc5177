"""Label maps that come without an image, as slices or as volumes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from monai.utils.enums import CommonKeys as Keys
from monai.utils.enums import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medsynth.data.io.segmentations import as_indices, read_picture_segmentation, read_segmentation
from medsynth.data.io.sources import is_picture
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.transforms import SEGMENTATION, FitPicture, middle_of, of_each_class, resampled, window
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, at_spacing
from medsynth.errors import MedsynthError

LEAST_LABELLED = 0.01  # part of a slice


def label_slices(
    path: str | Path,
    preprocessing: Preprocessing,
    space: SliceSpace,
    classes: Mapping[int, str],
    middle: tuple[float, float],
) -> NDArray[np.uint8]:
    """The slices of a label map as a model learned them, (N, H, W), indices of the classes.

    A volume is turned to the model's plane, resampled to its pixels, and cut so that the middle of what it shows comes
    where that of the training label maps was; slices that show hardly anything are left out. A single slice that has
    the model's size then is taken as it is.

    Args:
        preprocessing, space: of the model.
        classes: names by code.
        middle: row and column in the middle of the training label maps, see `SliceDataset.segmentation`.

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    size = preprocessing.image_size
    if is_picture(path):
        codes = read_picture_segmentation(path)
        indices = torch.from_numpy(as_indices(codes, classes))[None]
        fitted = FitPicture(size)({Keys.IMAGE: indices.float(), SEGMENTATION: indices})
        return fitted[SEGMENTATION].numpy()
    codes, affine = read_segmentation(path)
    _check_shows_something(codes)
    volume = MetaTensor(torch.from_numpy(as_indices(codes, classes))[None], affine, {MetaKeys.SPACE: SpaceKeys.RAS})
    volume = Orientation(PLANES[space.plane], labels=None)(volume)
    if min(volume.shape[1:3]) < 2:
        raise MedsynthError(f"is a single slice of another plane: the model draws {space.plane} ones")
    spacing = [float(mm) for mm in volume.pixdim[:2]]
    indices = volume.as_tensor()[0].permute(2, 0, 1)
    if not np.allclose(spacing, space.spacing_mm, rtol=1e-3, atol=0):
        indices = of_each_class(indices, lambda share: resampled(share, spacing, space.spacing_mm))
    if tuple(indices.shape) == (1, size, size):
        return indices.numpy()
    own = middle_of(indices.numpy())
    if own is None:
        raise MedsynthError(f"holds nothing that is seen at {_mm(space.spacing_mm)} mm: give larger structures")
    starts = [round(here - there) for here, there in zip(own, middle, strict=True)]
    found = window(indices, starts, (size, size), 0).numpy()
    return found[(found > 0).mean(axis=(1, 2)) >= LEAST_LABELLED] if len(found) > 1 else found


def label_volume(
    path: str | Path, preprocessing: VolumePreprocessing, classes: Mapping[int, str], middle: Sequence[float]
) -> NDArray[np.uint8]:
    """A label map on the grid of a model of volumes, (1, X, Y, Z), indices of the classes.

    It is resampled to the grid's voxels, and cut so that the middle of what it shows comes where that of the training
    label maps was; one that has the grid's size then is taken as it is.

    Args:
        middle: voxel (x, y, z) in the middle of the training label maps, see `VolumeDataset.segmentation`.

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    if is_picture(path):
        raise MedsynthError("is a picture, and label maps of whole volumes are needed")
    codes, affine = read_segmentation(path)
    if min(codes.shape) < 2:
        raise MedsynthError("is a single slice, and label maps of whole volumes are needed")
    _check_shows_something(codes)
    spacing, indices = nib.affines.voxel_sizes(affine), torch.from_numpy(as_indices(codes, classes))
    indices = of_each_class(indices, lambda share: at_spacing(share, spacing, preprocessing.spacing_mm))[None]
    if tuple(indices.shape[1:]) == preprocessing.size:
        return indices.numpy()
    own = middle_of(indices.numpy())
    if own is None:
        mm = _mm(preprocessing.spacing_mm)
        raise MedsynthError(f"holds nothing that is seen at {mm} mm: give larger structures")
    starts = [round(here - there) for here, there in zip(own, middle, strict=True)]
    return window(indices, starts, preprocessing.size, 0).numpy()


def _check_shows_something(codes: NDArray[np.int32]) -> None:
    if not codes.any():
        raise MedsynthError("is empty: it holds nothing but 0")


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)
