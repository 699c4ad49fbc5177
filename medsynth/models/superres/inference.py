"""Super-resolution of volumes, slice by slice, on a finer grid of the same field of view."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from torch import Tensor, nn

from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.io.writing import form_code
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing, find, read_picture, volume_bounds
from medsynth.data.preprocessing.preparation import log_notes
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.transforms import CheckFinite, MendHounsfield, with_neighbours
from medsynth.errors import MedsynthError, check_whole
from medsynth.inference.image_folder import ImageFolder, read_sidecar
from medsynth.inference.route import Input, Made, Route, origin
from medsynth.models.superres.degradation import SCALES
from medsynth.models.superres.network import RRDBNet
from medsynth.nn.precision import autocast
from medsynth.nn.resampling import repeat
from medsynth.run.recipe import LoadedModel

STEM = "superres"
SHOWN = 256  # fine pixels of each
FLIPS = ((), (2,), (3,), (2, 3))  # dimensions of a batch that an ensemble mirrors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upright:
    """A volume in stored units, oriented by the network's plane, and the transform back to its file.

    Args:
        values: (slices, rows, columns).
        affine: (4, 4), of (row, column, slice) to right-anterior-superior mm.
        file_affine: of the file's voxels.
        bounds: the intensities of -1 and 1.
    """

    values: Tensor
    affine: np.ndarray
    file_affine: np.ndarray
    bounds: tuple[float, float]

    def scaled(self, values: Tensor) -> Tensor:
        """Stored units -> the bounds at -1 and 1."""
        low, high = self.bounds
        return (values - low) * (2 / (high - low)) - 1

    def to_file(self, fine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(slices, rows, columns) of the same field of view -> voxels in the order of the file's axes, and affine."""
        slices, *steps = (old / new for old, new in zip(self.values.shape, fine.shape, strict=True))
        steps = [*steps, slices]
        # both grids share the outer edges of their pixels, not the centres of the first
        affine = self.affine @ nib.affines.from_matvec(np.diag(steps), [(step - 1) / 2 for step in steps])
        turn = io_orientation(np.linalg.inv(self.file_affine) @ self.affine)
        volume = np.moveaxis(fine, 0, -1)
        return apply_orientation(volume, turn), affine @ inv_ornt_aff(turn, volume.shape)


def read_upright(source: Source, preprocessing: Preprocessing) -> Upright:
    """Read a volume or a picture and find its intensity bounds; the values stay as they are.

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    if preprocessing.modality == "image":
        picture = Compose(read_picture(preprocessing))({"source": source})
        values = picture[Keys.IMAGE]
        affine = SliceSpace("image", (1.0, 1.0), 1.0, None).affine(values.shape[1:])
        return Upright(values, affine, affine, picture["bounds"])
    volume = sources.read_volume(source)
    # the bounds of a CT need no head, and its background stays what it is
    steps = find(preprocessing) if preprocessing.modality == "mri" else [CheckFinite(), MendHounsfield()]
    located = Compose([*steps, volume_bounds(preprocessing)])({Keys.IMAGE: volume, "source": source})
    log_notes([source.path], [located])
    upright: MetaTensor = Orientation(axcodes=PLANES[preprocessing.plane], labels=None)(located[Keys.IMAGE])
    values = convert_to_tensor(upright, track_meta=False)[0].permute(2, 0, 1).contiguous()
    return Upright(values, upright.affine.numpy(), volume.affine.numpy(), located["bounds"])


@dataclass(frozen=True)
class SliceUpscaler:
    """Calls a super-resolution network on slices of any size; through the plane, on slices across the thick ones.

    The network computes its detail tile by tile, each with a margin as wide as its receptive field, which is discarded
    afterwards: the result is that of the whole slice. The interpolation that the detail is added to is computed on
    whole slices.

    Values beyond [-1, 1] are preserved: the network sees them clipped, and its detail is added to the true values.

    Args:
        network: of low-resolution slices.
        tile_size: coarse pixels per side of a tile.
        overlap: coarse pixels around a tile that the network sees too; None: its receptive field.
        ensemble: mean over the slice and its three mirror images; takes four times as long.
        batch_size: slices at a time; changes the memory it takes, not the result.
        amp: compute the detail in bfloat16 where the device gains by it: faster, and rounded to about three digits.
    """

    network: RRDBNet
    tile_size: int = 256
    overlap: int | None = None
    ensemble: bool = False
    batch_size: int = 4
    amp: bool = False

    def __post_init__(self) -> None:
        check_whole("tile_size", self.tile_size, 8)
        check_whole("batch_size", self.batch_size, 1)
        if self.overlap is None:
            object.__setattr__(self, "overlap", reach(self.network))
        check_whole("overlap", self.overlap, 0, "null, or coarse pixels around a tile, 0 or more")
        if self.overlap < reach(self.network):
            log.warning("overlap %d is less than the network sees (%d): tiles show", self.overlap, reach(self.network))

    @torch.inference_mode()
    def __call__(self, slices: Tensor) -> Tensor:
        """(N, C, h, w), the bounds at -1 and 1 -> (N, scale * h, scale * w), or (N, rows, w), on the CPU."""
        device = next(self.network.parameters()).device
        parts = []
        for part in slices.to(device).split(self.batch_size):
            parts.append(self.network.assemble(part, self._detail(part))[:, 0].cpu())
        return torch.cat(parts)

    def _detail(self, slices: Tensor) -> Tensor:
        flips = FLIPS if self.ensemble else FLIPS[:1]
        sides = self.network.grids.fine(slices.shape[2:])
        return torch.stack([self._tiled(slices.flip(dims), sides).flip(dims) for dims in flips]).mean(0)

    def _tiled(self, slices: Tensor, sides: tuple[int, int]) -> Tensor:
        """The local part of the network, (N, C, h, w) -> (N, 1, *sides)."""
        slices = self.network.seen(slices)
        scale, (rows, columns) = self.network.step, slices.shape[2:]
        whole = slices.new_empty(len(slices), 1, scale * rows, scale * columns)
        for tall, wide in itertools.product(*(_spans(side, self.tile_size, self.overlap) for side in (rows, columns))):
            seen = slices[..., tall.seen, wide.seen].contiguous(memory_format=torch.channels_last)
            with autocast(seen.device, self.amp):
                detail = self.network.detail(seen)
            whole[..., tall.fine(scale), wide.fine(scale)] = detail[..., tall.inner(scale), wide.inner(scale)]
        return whole[..., : sides[0], : sides[1]]


class Span(NamedTuple):
    """The extent of a tile along one side, in coarse pixels: `start` to `stop`; `seen` includes the margins."""

    start: int
    stop: int
    seen: slice

    def fine(self, scale: int) -> slice:
        """The tile within the fine image."""
        return slice(scale * self.start, scale * self.stop)

    def inner(self, scale: int) -> slice:
        """The tile within the network's output for `seen`."""
        return slice(scale * (self.start - self.seen.start), scale * (self.stop - self.seen.start))


def load_upscaler(
    model: LoadedModel, tile_size: int, overlap: int | None, ensemble: bool, batch_size: int, amp: bool
) -> SliceUpscaler:
    """For the network of a model.pt, see `SliceUpscaler`."""
    if not isinstance(model.network, RRDBNet):
        name = type(model.network).__name__
        raise MedsynthError(f"the checkpoint holds a {name}: give the model.pt of a super-resolution")
    network = model.network.to(memory_format=torch.channels_last)
    return SliceUpscaler(network, tile_size, overlap, ensemble, batch_size, amp)


def reach(network: nn.Module) -> int:
    """The radius of the receptive field of a network of stride 1, in pixels: the sum over its convolutions."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return sum(max(k // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)) for conv in convolutions)


def _spans(side: int, tile: int, margin: int) -> list[Span]:
    """Tiles of about equal length along a side, at most `tile` long, each with its margin."""
    edges = np.linspace(0, side, -(-side // tile) + 1).round().astype(int).tolist()
    return [Span(a, b, slice(max(0, a - margin), min(side, b + margin))) for a, b in itertools.pairwise(edges)]


class SuperResolution:
    """Writes each input on a finer grid to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        upscaler: of the model's network.
        scale: None: the model's; any other is refused.
        dicom: write DICOM series besides NIfTI.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        upscaler: SliceUpscaler,
        scale: int | None = None,
        dicom: bool = False,
    ) -> None:
        self._check_scale(scale, upscaler.network.scale)
        self.preprocessing = Preprocessing.from_dict(model.preprocessing)
        self.output, self.upscaler, self.dicom = output, upscaler, dicom

    def run(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Write the results, numbered in the order of the inputs, or for PNG named as the inputs are; see `Route`."""
        if not inputs:
            raise MedsynthError("there is no input: give a volume, a folder of volumes or a datalist")
        Route(self._name, self._read, self._make, own_names=True).run(inputs, self.output)

    @property
    def _name(self) -> str:
        return f"x{self.upscaler.network.scale}"

    def _read(self, source: Source) -> Upright:
        refuse_twice(source)
        return read_upright(source, self.preprocessing)

    def _make(self, batch: Sequence[Input]) -> Iterator[Made]:
        for one in batch:
            upright, space = one.ready, space_of(self.preprocessing, one.ready)
            fine = self._finer(upright)
            volume, affine = upright.to_file(fine)
            sidecar = {"Units": space.units, "Ensemble": self.upscaler.ensemble, **origin(one.source)}
            facts = self._facts(upright, fine)
            code, dicom = form_code(one.source.path), space.modality if self.dicom else None
            yield Made(volume, affine, facts, sidecar, [self._shown(upright, fine)], code, dicom=dicom)

    def _facts(self, upright: Upright, fine: np.ndarray) -> dict[str, Any]:
        return {"Scale": self.upscaler.network.scale, "Plane": self.preprocessing.plane, "Slices": len(fine)}

    def _finer(self, upright: Upright) -> np.ndarray:
        """(slices, scale * rows, scale * columns) in stored units, not below the input's lowest value."""
        space, values = space_of(self.preprocessing, upright), upright.values
        order = with_neighbours(np.arange(len(values)), self.preprocessing.neighbours, len(values))
        parts = []
        for some in np.array_split(order, -(-len(order) // self.upscaler.batch_size)):
            parts.append(space.to_units(self.upscaler(upright.scaled(values[some])).numpy(), clip=False))
        return np.maximum(np.concatenate(parts), parts[0].dtype.type(values.min()))

    def _shown(self, upright: Upright, fine: np.ndarray) -> tuple[Tensor, ...]:
        """The middle slice before and after, see `beside`."""
        middle = len(fine) // 2
        return beside(repeat(upright.values[middle], self.upscaler.network.scale), fine[middle], upright)

    @staticmethod
    def _check_scale(scale: int | None, own: int) -> None:
        if scale in (None, own):
            return
        advice = f"leave scale out, or train a model with --scale {scale}"
        if scale not in SCALES:
            advice = "no model makes that, and one applied twice would invent most of the detail; leave scale out"
        raise MedsynthError(f"scale is {scale!r}, and this model makes x{own}: {advice}")


def beside(before: Tensor, after: np.ndarray, upright: Upright) -> tuple[Tensor, ...]:
    """The middle of two slices of one size in stored units, pixel for pixel: (1, SHOWN, SHOWN) each in [-1, 1]."""
    slices = torch.stack([before, torch.from_numpy(after.astype(np.float32))])
    cut = ResizeWithPadOrCrop((SHOWN, SHOWN), value=-1)(upright.scaled(slices).clamp(-1, 1))
    return tuple(convert_to_tensor(cut, track_meta=False)[:, None])


def space_of(preprocessing: Preprocessing, upright: Upright) -> SliceSpace:
    """The modality, spacing and intensity bounds of an input's slices."""
    rows, columns, slices = np.linalg.norm(upright.affine[:3, :3], axis=0).tolist()
    return SliceSpace(preprocessing.modality, (rows, columns), slices, upright.bounds, preprocessing.plane)


def refuse_twice(source: Source) -> None:
    """MedsynthError, in words that follow the file's name, if the image is an output of super-resolution already."""
    content = read_sidecar(source.path)
    if content.get("Synthetic") is True and content.get("Model") == STEM:
        raise MedsynthError(
            f"was made by super-resolution already (x{content.get('Scale')}): the network would take invented "
            "detail for measured; give the scan that it was made from"
        )
