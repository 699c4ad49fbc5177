"""Super-resolution of volumes of thick slices: what lies between them, on a grid as fine as they are in the plane."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
from torch import Tensor

from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import PLANES
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.models.superres.direction import required_plane
from medsynth.models.superres.inference import (
    SliceUpscaler,
    SuperResolution,
    Upright,
    beside,
    read_upright,
    refuse_twice,
    space_of,
)
from medsynth.nn.slice_profile import is_profile, put_back_above, repeat_slices
from medsynth.run.recipe import LoadedModel

MOST_OTHER = 1.5  # times that a scan's ratio of slice distance to pixels may differ from the model's without a warning

log = logging.getLogger(__name__)


def super_resolution(
    model: LoadedModel,
    output: ImageFolder,
    upscaler: SliceUpscaler,
    scale: int | None = None,
    dicom: bool = False,
) -> SuperResolution:
    """In the plane or through it, as the model has learned; see `SuperResolution`."""
    kind = ThroughPlane if is_profile(upscaler.network.degradation) else SuperResolution
    return kind(model, output, upscaler, scale, dicom)


class ThroughPlane(SuperResolution):
    """Writes each input with slices as close to one another as its pixels to a folder.

    The slice axis of an input is its coarsest one. The field of view stays; where it is no whole multiple of the
    pixels, the distance between the new slices is the nearest that is.
    """

    @property
    def _name(self) -> str:
        return "through_plane"

    def _read(self, source: Source) -> Upright:
        refuse_twice(source)
        upright = read_upright(source, replace(self.preprocessing, plane=required_plane(source)))
        ratio, own = _rows(upright) / len(upright.values), self.upscaler.network.scale
        if not 1 / MOST_OTHER < ratio / own < MOST_OTHER:
            log.warning(
                "%s has slices %.3g times as far apart as its pixels, and this model learned %.3g: train one for it",
                source.path,
                ratio,
                own,
            )
        return upright

    def _facts(self, upright: Upright, fine: np.ndarray) -> dict[str, Any]:
        axes = "".join(nib.aff2axcodes(upright.affine))
        plane = next(name for name, directions in PLANES.items() if directions == axes)
        return {"Scale": round(len(fine) / len(upright.values), 3), "Plane": plane, "Slices": len(fine)}

    def _finer(self, upright: Upright) -> np.ndarray:
        """(slices, rows, columns) in stored units, of more slices; not below the input's lowest value."""
        values = upright.scaled(upright.values.float())
        volume = through(values, _rows(upright), self.upscaler)
        space = space_of(self.preprocessing, upright)
        made = space.to_units(volume.numpy(), clip=False)
        return np.maximum(made, made.dtype.type(upright.values.min()))

    def _shown(self, upright: Upright, fine: np.ndarray) -> tuple[Tensor, ...]:
        """A cut across the middle of the slices before and after, see `beside`; the last slice at the top."""
        middle = fine.shape[2] // 2
        return beside(
            repeat_slices(upright.values[..., middle], len(fine)).flip(0), fine[::-1, :, middle].copy(), upright
        )

    @staticmethod
    def _check_scale(scale: int | None, own: float) -> None:
        if scale is not None:
            raise MedsynthError(
                f"scale is {scale!r}, and this model goes from slices to the spacing of their pixels: leave scale out"
            )


def through(slices: Tensor, rows: int, upscaler: SliceUpscaler) -> Tensor:
    """The mean of what a network makes of the two stacks of cuts across thick slices, consistent with these.

    Args:
        slices: (slices, H, W), the bounds at -1 and 1.
        rows: slices to make of them.

    Returns: (rows, H, W) on the CPU, not below the lowest value of the slices; consistent to about a thousandth
    of the range, unless the network is not to be.
    """
    network = upscaler.network.at(rows / len(slices))
    upscaler = replace(upscaler, network=network)
    along_rows = upscaler(slices.permute(2, 0, 1)[:, None]).permute(1, 2, 0)  # one cut a column
    along_columns = upscaler(slices.permute(1, 0, 2)[:, None]).permute(1, 0, 2)
    fine, lowest = (along_rows + along_columns) / 2, float(slices.min())
    if not network.consistent:
        return fine.clamp_min(lowest)
    profile = network.degradation, network.fill
    return put_back_above(slices.flatten(1), fine.flatten(1), *profile, lowest).reshape(fine.shape)


def _rows(upright: Upright) -> int:
    """Slices to make, as close to one another as the pixels are."""
    row, column, between = np.linalg.norm(upright.affine[:3, :3], axis=0)
    return max(len(upright.values), round(len(upright.values) * between / ((row + column) / 2)))
