"""A slice network over whole volumes, slice by slice, and the result back on each volume's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import Compose, Orientation
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from medsynth.data import sources
from medsynth.data.foreground import Head
from medsynth.data.output import ImageFolder, SliceSpace, digits, form_code
from medsynth.data.pipelines import PLANES, Preprocessing, locate, volume_bounds
from medsynth.data.sources import Source
from medsynth.data.transforms import FitPicture, ScaleToUnit, with_neighbours
from medsynth.errors import MedsynthError

AIR_HU = -1000
THUMBNAIL = 256  # pixels of a slice in the grid
MOST_SHOWN = 36  # inputs in the grid
AIR = -1.0  # in a network's scale
MARGIN_MM = 4.0  # around the head, in which a network's answer is kept

log = logging.getLogger(__name__)

SliceNetwork = Callable[[Tensor], Tensor]
"""(N, 1 + 2 * neighbours, H, W) in [-1, 1], each slice in the middle of its neighbours -> (N, 1, H, W)."""


@dataclass(frozen=True)
class ReadyVolume:
    """A volume as a slice network takes it, and the way back.

    Args:
        image: (1, rows, columns, slices) in [-1, 1], upright.
        head: (rows, columns, slices), true in the head and a little around it.
        bounds: the intensities of -1 and 1.
        steps: those that turned the volume upright.
    """

    image: MetaTensor
    head: np.ndarray
    bounds: tuple[float, float]
    steps: Compose

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), of the grid of the file, to right-anterior-superior mm."""
        return self._inverse(self.image).affine.numpy()

    def back(self, values: Tensor) -> np.ndarray:
        """Values on the upright grid (1, rows, columns, slices) -> (X, Y, Z) on the grid of the file."""
        return self._inverse(values)[0].numpy()

    def _inverse(self, values: Tensor) -> MetaTensor:
        turns = list(self.image.applied_operations)  # the inverse takes them out of the list
        upright = MetaTensor(values, meta=self.image.meta, applied_operations=turns)
        return self.steps.inverse({Keys.IMAGE: upright})[Keys.IMAGE]


def read_ready(source: Source, preprocessing: Preprocessing) -> ReadyVolume:
    """Read a volume, turn it upright, and bring its intensities to [-1, 1].

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    steps = Compose(locate(preprocessing))
    located = steps({"source": source})
    upright = located[Keys.IMAGE]
    data = ScaleToUnit()(volume_bounds(preprocessing)(located))
    image = MetaTensor(data[Keys.IMAGE], meta=upright.meta, applied_operations=upright.applied_operations)
    return ReadyVolume(image, outline(data["head"]), data["bounds"], steps)


def outline(head: Head) -> np.ndarray:
    """(rows, columns, slices), true in the head, in its cavities, and up to `MARGIN_MM` around it."""
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(head.mask, 2, 0)], axis=-1)
    if filled.all():
        return np.ones(head.shape, bool)
    near = ndimage.distance_transform_edt(~filled, np.multiply(head.spacing_mm, head.step)) <= MARGIN_MM
    for axis in range(3):
        near = near.repeat(head.step[axis], axis).take(range(head.shape[axis]), axis, mode="clip")
    return near


@dataclass(frozen=True)
class VolumeInferer:
    """Calls a slice network on every slice of a volume.

    Slices that are larger than the network's go through in tiles that overlap and are blended; smaller ones are padded
    with air.

    Args:
        image_size: rows and columns of the slices that the network takes.
        planes: in which the volume is cut, of `PLANES`; the results are averaged.
        spacing_mm: of the slices, to the nearest whole number of pixels over the field of view; None: as it is.
        neighbours: slices on each side that come along as channels.
        overlap: part of a tile that the next one covers too.
        batch_size: slices at a time; changes the memory it takes, not the result.
        device: of the network.
    """

    image_size: int
    planes: Sequence[str] = ("axial",)
    spacing_mm: tuple[float, float] | None = None
    neighbours: int = 0
    overlap: float = 0.25
    batch_size: int = 8
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if not self.planes or not set(self.planes) <= set(PLANES):
            raise MedsynthError(f"planes are {list(self.planes)}: choose some of {', '.join(PLANES)}")
        if not 0 <= self.overlap < 1:
            raise MedsynthError(
                f"overlap is {self.overlap!r}: give a part of a tile from 0 to less than 1, such as 0.25"
            )

    @torch.inference_mode()
    def __call__(self, volume: MetaTensor, network: SliceNetwork) -> Tensor:
        """(1, X, Y, Z) in [-1, 1], any orientation -> the same shape, the mean over the planes, on the CPU."""
        return torch.stack([self._in_plane(volume, plane, network) for plane in self.planes]).mean(0)

    def _in_plane(self, volume: MetaTensor, plane: str, network: SliceNetwork) -> Tensor:
        orientation = Orientation(axcodes=PLANES[plane], labels=None)
        upright = orientation(volume)
        slices = convert_to_tensor(upright, track_meta=False)[0].permute(2, 0, 1)  # (slices, rows, columns)
        size = tuple(slices.shape[1:])
        if self.spacing_mm is not None:
            slices = _resized(slices, _pixels(size, upright.pixdim, self.spacing_mm))
        stack = slices[with_neighbours(np.arange(len(slices)), self.neighbours, len(slices))]
        answer = self._inferer()(stack.permute(1, 2, 3, 0)[None], network)[0, 0].permute(2, 0, 1)
        answer = _resized(answer, size).permute(1, 2, 0)[None]
        turned = MetaTensor(answer, meta=upright.meta, applied_operations=upright.applied_operations)
        return convert_to_tensor(orientation.inverse(turned), track_meta=False)

    def _inferer(self) -> SliceInferer:
        return SliceInferer(
            spatial_dim=2,
            roi_size=(self.image_size, self.image_size),
            sw_batch_size=self.batch_size,
            overlap=self.overlap,
            mode="gaussian",
            cval=AIR,
            sw_device=self.device,
            device="cpu",
        )


def sampled(
    inferer: VolumeInferer, volume: MetaTensor, network: SliceNetwork, num_samples: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Mean of several answers of a network that draws at random, and their standard deviation in each voxel.

    Args:
        num_samples: answers; the standard deviation of one is None.
        seed: the same one gives the same answers; PyTorch's random state is left as it was.
    """
    mean, squares = torch.zeros(()), torch.zeros(())
    devices = [inferer.device] if torch.device(inferer.device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for count in range(1, num_samples + 1):
            sample = inferer(volume, network).double()
            away = sample - mean
            mean = mean + away / count
            squares = squares + away * (sample - mean)  # Welford's sum of squares about the mean
    return mean.float(), (squares / (num_samples - 1)).sqrt().float() if num_samples > 1 else None


@dataclass(frozen=True)
class VolumeRequest:
    """What a user asks of a slice network for volumes.

    Args:
        name: of what it does, such as `source_to_target`, for file names.
        num_samples: answers, whose mean is written; of more than one, their standard deviation is written too.
        seed: of random draws.
        clean_background: set what lies outside the input's head to air.
        dicom: write DICOM series besides NIfTI.
    """

    name: str
    num_samples: int = 1
    seed: int = 0
    clean_background: bool = True
    dicom: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.num_samples, int) or isinstance(self.num_samples, bool) or self.num_samples < 1:
            raise MedsynthError(f"num_samples is {self.num_samples!r}: give 1 or more")


def write_volumes(
    inputs: Sequence[Mapping[str, Any]],
    network: SliceNetwork,
    preprocessing: Preprocessing,
    space: SliceSpace,
    inferer: VolumeInferer,
    output: ImageFolder,
    request: VolumeRequest,
) -> None:
    """Write what the network makes of each volume, on the volume's own grid, numbered in the order of the inputs.

    Inputs that cannot be used are named and left out; only where all are, it is an error.

    Args:
        inputs: {"image": path}, with "frame" for a frame of a 4D file.
        preprocessing: of the images that the network takes.
        space: what the values of its answers stand for.
    """
    shown: list[tuple[Tensor, Tensor]] = []
    reasons: list[str] = []
    for index, entry in enumerate(tqdm(inputs, desc=request.name, unit="volume")):
        source = Source.of(entry)
        try:
            ready = read_ready(source, preprocessing)
        except MedsynthError as error:
            reasons.append(f"{source.path} {error}")
            continue
        mean, deviation = sampled(inferer, ready.image, network, request.num_samples, request.seed)
        name = f"{request.name}_{index:0{digits(len(inputs))}d}"
        _write(name, source, ready, (mean, deviation), space, output, request)
        if len(shown) < MOST_SHOWN:
            middle = ready.image.shape[-1] // 2
            before, after = (_thumbnail(volume[..., middle]) for volume in (ready.image, mean))
            shown.append((before, after))
    if not shown:
        raise MedsynthError(f"none of the {len(inputs)} inputs can be used: {reasons[0]}")
    for reason in reasons:
        log.warning("left out: %s", reason)
    output.finish(torch.stack([image for pair in shown for image in pair]), columns=2 * min(len(shown), 4))
    log.info("%d of %d volumes are in %s", len(inputs) - len(reasons), len(inputs), output.folder)


def _write(
    name: str,
    source: Source,
    ready: ReadyVolume,
    answer: tuple[Tensor, Tensor | None],
    space: SliceSpace,
    output: ImageFolder,
    request: VolumeRequest,
) -> None:
    """One volume, its standard deviation and its DICOM series."""
    affine, code = ready.affine, form_code(source.path)
    digest = sources.digest(source)
    facts = {"Seed": request.seed, "Samples": request.num_samples}
    sidecar = {"Units": space.units, "InputDigest": digest, "Sources": [f"hash://sha256/{digest}"]}
    values = space.to_units(ready.back(answer[0]))
    outside = ready.back(torch.from_numpy(ready.head)[None].float()) < 0.5
    if request.clean_background:
        values[outside] = AIR_HU if space.modality == "ct" and space.bounds else space.to_units(np.array(AIR))
    output.write(name, values, affine, facts, sidecar, code)
    if request.dicom:
        output.write_dicom(name, values, affine, space.modality, source)
    if answer[1] is not None:
        low, high = space.bounds or (0.0, 1.0)
        deviation = (ready.back(answer[1]) * ((high - low) / 2)).astype(np.float32)
        if request.clean_background:
            deviation[outside] = 0
        quantity = {"Quantity": "standard deviation of the samples in each voxel"}
        output.write(f"{name}_std", deviation, affine, facts, sidecar | quantity, code)


def _thumbnail(image: Tensor) -> Tensor:
    """(1, rows, columns) -> (1, THUMBNAIL, THUMBNAIL)."""
    return FitPicture(THUMBNAIL)({Keys.IMAGE: convert_to_tensor(image, track_meta=False)})[Keys.IMAGE]


def _pixels(size: Sequence[int], old_mm: Sequence[float], new_mm: Sequence[float]) -> tuple[int, int]:
    rows, columns = (max(1, round(count * float(a) / b)) for count, a, b in zip(size, old_mm[:2], new_mm, strict=True))
    return rows, columns


def _resized(slices: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) over the same field of view."""
    if tuple(slices.shape[1:]) == tuple(size):
        return slices
    return F.interpolate(slices[:, None], size=tuple(size), mode="bilinear", antialias=True)[:, 0]
