"""The steps of our own in a pipeline: each takes a dictionary and returns it with more in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import ImageReader, MetaTensor
from monai.transforms import SpatialPad, Transform
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.foreground import BRAIN_HEIGHT_MM, find_head
from medsynth.data.header import unreadable
from medsynth.data.sources import Source, read_header, read_volume
from medsynth.errors import MedsynthError

MRI_PERCENTILES = (0.5, 99.5)


class ReadImage(Transform):
    """Read the file at `path` with one reader; unlike MONAI's `LoadImaged`, try no other where that one fails."""

    def __init__(self, reader: ImageReader) -> None:
        self.reader = reader

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        try:
            array, meta = self.reader.get_data(self.reader.read(data["path"]))
        except Exception as error:  # on damaged bytes, the libraries raise whatever comes
            raise MedsynthError(unreadable(error)) from error
        return data | {Keys.IMAGE: MetaTensor.ensure_torch_and_prune_meta(array.astype(np.float32), meta)}


class ReadVolume(Transform):
    """Read the volume at `path`, of 4D ones the given `frame`: (1, X, Y, Z) with its affine."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {Keys.IMAGE: read_volume(Source(data["path"], data.get("frame")))}


class CheckFinite(Transform):
    """Refuse values that no scaling can mend."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image = data[Keys.IMAGE]
        if bad := int((~torch.isfinite(image)).sum()):
            raise MedsynthError(f"holds {bad} voxels of {image.numel()} that are NaN or infinite: replace them first")
        return data


class FindHead(Transform):
    """Find the head in an upright volume (1, rows, columns, slices), and keep the volume's spacing and affine."""

    def __init__(self, threshold: Callable[[np.ndarray], float]) -> None:
        self.threshold = threshold

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = data[Keys.IMAGE]
        spacing = tuple(float(size) for size in volume.pixdim)
        head = find_head(volume[0].numpy(), spacing, self.threshold)
        return data | {"spacing_mm": spacing, "affine": volume.affine.numpy(), "head": head}


class PercentileBounds(Transform):
    """Take the intensity bounds from the head's own values."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        low, high = (float(bound) for bound in np.percentile(data["head"].values, MRI_PERCENTILES))
        if low >= high:
            raise MedsynthError(f"has a head of the value {low:g} only: is it a mask instead of a scan?")
        return data | {"bounds": (low, high)}


class FixedBounds(Transform):
    """The same intensity bounds for every image."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.bounds = bounds

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {"bounds": self.bounds}


class BitDepthBounds(Transform):
    """The intensity bounds of a picture's bit depth: 0 to 255 for 8 bits, 0 to 65,535 for 16."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if (bits := read_header(data["path"]).bits) is None:
            raise MedsynthError("holds real numbers instead of 8 or 16 bits: set the window to [low, high]")
        return data | {"bounds": (0.0, 2.0**bits - 1)}


class ResampleInPlane(Transform):
    """Bring rows and columns to a spacing, averaging over the area where they get coarser; slices stay as they are."""

    def __init__(self, spacing_mm: tuple[float, float]) -> None:
        self.spacing_mm = spacing_mm

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        old, new = data["spacing_mm"], self.spacing_mm
        planes = convert_to_tensor(data[Keys.IMAGE], track_meta=False).permute(3, 0, 1, 2)
        # the output is cut to whole pixels: pad by one, so that the last rows and columns are in it
        pad = [
            0 if _whole(size * a / b) else int(np.ceil(b / a))
            for size, a, b in zip(planes.shape[2:], old, new, strict=False)
        ]
        planes = F.pad(planes, (0, pad[1], 0, pad[0]), mode="replicate")
        scale = tuple(a / b * (1 + 1e-9) for a, b in zip(old, new, strict=False))
        planes = F.interpolate(planes, scale_factor=scale, mode="bilinear", antialias=True)
        steps = (new[0] / old[0], new[1] / old[1], 1.0)
        affine = data["affine"] @ nib.affines.from_matvec(np.diag(steps), [(step - 1) / 2 for step in steps])
        return data | {Keys.IMAGE: planes.permute(1, 2, 3, 0), "spacing_mm": (*new, old[2]), "affine": affine}


class ScaleToUnit(Transform):
    """Map the bounds onto [-1, 1] and clip what lies outside."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        low, high = data["bounds"]
        image = convert_to_tensor(data[Keys.IMAGE], track_meta=False)
        return data | {Keys.IMAGE: ((image - low) * (2 / (high - low)) - 1).clamp(-1, 1)}


class TakeSlices(Transform):
    """Choose the slices that show enough of the head at the brain's height, and centre each on the head.

    Turns the volume (1, rows, columns, slices) into slices (N, size, size) and adds their positions: 1 at the top of
    the head, 0 at `BRAIN_HEIGHT_MM` below it. The affine becomes that of a volume of all slices, cut like those;
    `slices` are the indices of the chosen ones in it.
    """

    def __init__(self, image_size: int, min_foreground: float) -> None:
        self.image_size, self.min_foreground = image_size, min_foreground

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        head, spacing, volume = data["head"], data["spacing_mm"], data[Keys.IMAGE][0]
        positions = 1 - (head.top - np.arange(volume.shape[-1])) * spacing[2] / BRAIN_HEIGHT_MM
        kept = np.flatnonzero((positions >= 0) & (positions <= 1) & (head.shares >= self.min_foreground))
        if not kept.size:
            raise MedsynthError(f"has no slice with {self.min_foreground:.0%} of its area in the head")
        planes = volume[..., kept.tolist()].permute(2, 0, 1)
        starts = [round(head.centre_mm[axis] / spacing[axis] - self.image_size / 2) for axis in (0, 1)]
        for axis in (0, 1):
            planes = _window(planes, axis + 1, starts[axis], self.image_size)
        affine = data["affine"] @ nib.affines.from_matvec(np.eye(3), [*starts, 0])
        return data | {Keys.IMAGE: planes, "positions": positions[kept], "affine": affine, "slices": kept}


class FitPicture(Transform):
    """Leave a picture (1, rows, columns) of the right size alone; scale any other to fit, on black."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image, size = data[Keys.IMAGE], self.image_size
        if tuple(image.shape[1:]) != (size, size):
            scale = size / max(image.shape[1:])
            shape = [max(1, round(side * scale)) for side in image.shape[1:]]
            image = F.interpolate(image[None], size=shape, mode="bilinear", antialias=True)[0]
            image = convert_to_tensor(SpatialPad((size, size), value=-1)(image), track_meta=False)
        return data | {Keys.IMAGE: image, "positions": np.array([np.nan]), "spacing_mm": (1.0, 1.0, 1.0)}


def _whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-3


def _window(planes: torch.Tensor, axis: int, start: int, size: int) -> torch.Tensor:
    """Cut `size` steps from `start` on out of an axis; beyond the edge, the value of air on that edge goes on."""
    before, after = max(0, -start), max(0, start + size - planes.shape[axis])
    inside = planes.narrow(axis, max(0, start), min(planes.shape[axis], start + size) - max(0, start))
    air = torch.stack([planes.select(axis, 0), planes.select(axis, -1)]).median()
    shape = list(planes.shape)
    sides = [planes.new_full([*shape[:axis], width, *shape[axis + 1 :]], float(air)) for width in (before, after)]
    return torch.cat([sides[0], inside, sides[1]], dim=axis)
