"""A slice network over whole volumes, slice by slice, and the result on each volume's own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, Orientation
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from scipy import ndimage
from torch import Tensor

from medsynth.data.io.sources import Source, read_contrasts
from medsynth.data.io.writing import form_code
from medsynth.data.preprocessing.foreground import Patient, finer
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing, find, locate, volume_bounds
from medsynth.data.preprocessing.preparation import log_notes
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.transforms import (
    AIR_HU,
    FitPicture,
    ResampleInPlane,
    ScaleToUnit,
    first_pixels,
    window,
    with_neighbours,
)
from medsynth.errors import MedsynthError, check_whole
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.route import Input, Inputs, Made, Route, origin

THUMBNAIL = 256  # pixels of a slice in the grid
AIR = -1.0  # in a network's scale
LEAST_WEIGHT = 1e-6  # of a tile's edge where another tile lies beneath; where none does, it counts alone
MARGIN_MM = 4.0  # around the patient, within which the network's output is retained

SliceNetwork = Callable[[Tensor, Tensor], Tensor]
"""Slices (N, 1 + 2 * neighbours, H, W) in [-1, 1], each in the middle of its neighbours, of several contrasts one after
the other, and positions (N,), NaN where unknown -> (N, 1, H, W)."""


@dataclass(frozen=True)
class ReadyVolume:
    """A volume prepared for a slice network, and the inverse.

    Args:
        image: (1, rows, columns, slices) in [-1, 1], upright; of several contrasts, (contrasts, rows, columns, slices),
            -1 where one is missing.
        patient: where the patient lies in it.
        outline: (rows, columns, slices), true in the patient and a little around it.
        air: typical intensity outside the patient, in [-1, 1], of each contrast.
        bounds: the intensities of -1 and 1, of the first contrast that is there.
        steps: those that turned the volume upright.
    """

    image: MetaTensor
    patient: Patient
    outline: np.ndarray
    air: Sequence[float]
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


def read_ready(source: Source, preprocessing: Preprocessing, contrasts: Sequence[str] = ()) -> ReadyVolume:
    """Read a volume, turn it upright, and bring its intensities to [-1, 1].

    Args:
        contrasts: names of those that a network takes, of which `source` has some; none: it takes one volume.

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    if contrasts:
        steps = Compose(find(preprocessing))
        given = {name: {Keys.IMAGE: volume, "source": source} for name, volume in read_contrasts(source).items()}
    else:
        steps, given = Compose(locate(preprocessing)), {"": {"source": source}}
    ready = {}
    for name, one in given.items():
        located = steps(one)
        log_notes([source.parts[name].path], [located])
        upright = located[Keys.IMAGE]
        data = ScaleToUnit()(volume_bounds(preprocessing)(located))
        image = MetaTensor(data[Keys.IMAGE], meta=upright.meta, applied_operations=upright.applied_operations)
        ready[name] = data | {Keys.IMAGE: image}
    first = next(iter(ready.values()))
    image, air = first[Keys.IMAGE], [first["air"]]
    if contrasts:
        missing = {Keys.IMAGE: torch.full_like(image, AIR), "air": AIR}
        every = [ready.get(name, missing) for name in contrasts]
        stacked = torch.cat([convert_to_tensor(one[Keys.IMAGE], track_meta=False) for one in every])
        image = MetaTensor(stacked, meta=image.meta, applied_operations=image.applied_operations)
        air = [one["air"] for one in every]
    return ReadyVolume(image, first["patient"], outline(first["patient"]), air, first["bounds"], steps)


def outline(patient: Patient) -> np.ndarray:
    """(rows, columns, slices), true in the patient, in its cavities, and up to `MARGIN_MM` around it."""
    filled = np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(patient.mask, 2, 0)], axis=-1)
    if filled.all():
        return np.ones(patient.shape, bool)
    near = ndimage.distance_transform_edt(~filled, np.multiply(patient.spacing_mm, patient.step)) <= MARGIN_MM
    return finer(near, patient.step, patient.shape)


@dataclass(frozen=True)
class VolumeInferer:
    """Calls a slice network on every slice of a volume that shows the patient.

    Slices are resampled and centred on the patient like the training slices. Larger patients are processed in
    overlapping tiles, which are blended by `tile_weights`. What lies outside is air.

    Args:
        preprocessing: of the training slices, with their spacing.
        planes: in which the volume is cut, of `PLANES`; the results are averaged. None: that of the training slices.
        overlap: part of a tile that the next one covers too.
        batch_size: slices at a time; changes the memory it takes, not the result.
        device: of the network.
        contrasts: names of those that the network takes, in the order of its channels; none: it takes one volume.
    """

    preprocessing: Preprocessing
    planes: Sequence[str] | None = None
    overlap: float = 0.25
    batch_size: int = 8
    device: str | torch.device = "cpu"
    contrasts: Sequence[str] = ()

    def __post_init__(self) -> None:
        planes = self.planes
        if planes is not None and (isinstance(planes, str) or not planes or not set(planes) <= set(PLANES)):
            raise MedsynthError(f"planes are {planes!r}: give a list with some of {', '.join(PLANES)}")
        if not 0 <= self.overlap < 1:
            raise MedsynthError(
                f"overlap is {self.overlap!r}: give a part of a tile from 0 to less than 1, such as 0.25"
            )
        check_whole("batch_size", self.batch_size, 1)

    @torch.inference_mode()
    def __call__(self, volume: ReadyVolume, network: SliceNetwork) -> Tensor:
        """A volume -> (1, rows, columns, slices) in [-1, 1], the mean over the planes, on the CPU."""
        planes = self.planes or [self.preprocessing.plane]
        return torch.stack([self._in_plane(volume, plane, network) for plane in planes]).mean(0)

    def _in_plane(self, volume: ReadyVolume, plane: str, network: SliceNetwork) -> Tensor:
        turn, axes = Orientation(axcodes=PLANES[plane], labels=None), PLANES[plane]
        upright = turn(volume.image)
        contrasts = convert_to_tensor(upright, track_meta=False).permute(
            0, 3, 1, 2
        )  # (contrasts, slices, rows, columns)
        shown = turn(MetaTensor(volume.outline[None], meta=volume.image.meta))[0].numpy().any((0, 1)).nonzero()[0]
        shape, spacing = contrasts.shape[2:], tuple(map(float, upright.pixdim))
        stacks = []
        for slices, air in zip(contrasts, volume.air, strict=True):
            slices, mm = _resampled(slices, spacing, self.preprocessing.spacing_mm or spacing[:2])
            starts, sides = self._field(volume.patient, axes, mm)
            field = window(slices, starts, sides, air)
            stacks.append(field[with_neighbours(shown, self.preprocessing.neighbours, len(slices))])
        stack = torch.cat(stacks, dim=1)
        answers = self._answers(stack, self._positions(volume.patient, plane)[shown], network)

        field = torch.full_like(field, AIR)
        field[shown] = answers[:, 0]
        answer = window(field, [-start for start in starts], slices.shape[1:], AIR)
        answer = _resampled(answer, (*mm, spacing[2]), spacing[:2])[0][:, : shape[0], : shape[1]]
        turned = MetaTensor(
            answer.permute(1, 2, 0)[None], meta=upright.meta, applied_operations=upright.applied_operations
        )
        return convert_to_tensor(turn.inverse(turned), track_meta=False)

    def _answers(self, stack: Tensor, positions: Tensor, network: SliceNetwork) -> Tensor:
        """(N, channels, rows, columns) -> (N, 1, rows, columns); positions travel as one more channel."""
        size = self.preprocessing.image_size
        channel = positions[:, None, None, None].expand(-1, 1, *stack.shape[2:])
        return sliding_window_inference(
            torch.cat([stack, channel], 1),
            (size, size),
            self.batch_size,
            lambda tile: network(tile[:, :-1], tile[:, -1, 0, 0]),
            self.overlap,
            sw_device=self.device,
            device="cpu",
            roi_weight_map=tile_weights(size, self.overlap),
        )

    def _field(self, patient: Patient, axes: str, spacing_mm: Sequence[float]) -> tuple[list[int], list[int]]:
        """First pixels of the field that the network processes, and its rows and columns.

        The size of the training slices; larger where parts of the patient, such as shoulders, lie outside.
        """
        size = self.preprocessing.image_size
        starts = first_pixels(patient, axes, spacing_mm, size)
        ends = [start + size for start in starts]
        for axis, (direction, mm) in enumerate(zip(axes, spacing_mm, strict=False)):
            begin, end = (edge * patient.pixel_mm(direction) / mm for edge in patient.reach(direction))
            starts[axis] = min(starts[axis], math.ceil(begin))  # less than a pixel is not worth a second tile
            ends[axis] = max(ends[axis], math.floor(end))
        return starts, [end - start for start, end in zip(starts, ends, strict=True)]

    def _positions(self, patient: Patient, plane: str) -> Tensor:
        """(slices,), within those of the training slices; NaN in a plane that the network was not trained on."""
        known = math.nan if plane != self.preprocessing.plane else 1.0
        return torch.from_numpy(known * patient.positions(PLANES[plane][2]).clip(*self.preprocessing.positions)).float()


def tile_weights(size: int, overlap: float) -> Tensor:
    """What each pixel of a tile counts where tiles overlap, (1, 1, size, size), of at most 1.

    Next to its edges, over a quarter of the overlap, a tile counts next to nothing, since a network sees padding there
    instead of the image; over the next half its weight rises to 1. A network that sees no farther leaves no seams.
    """
    shared = size - int(size * (1 - overlap))  # as MONAI rounds it
    from_edge = torch.arange(size) + 0.5
    from_edge = torch.minimum(from_edge, size - from_edge)
    side = ((from_edge - shared / 4) / (shared / 2)).clamp(LEAST_WEIGHT, 1) if shared else torch.ones(size)
    return (side[:, None] * side)[None, None]


def sampled(
    inferer: Callable[[Any, SliceNetwork], Tensor], volume: Any, network: SliceNetwork, num_samples: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Mean of several answers of a network that draws at random, and their standard deviation in each voxel.

    Args:
        inferer, volume: a `VolumeInferer` or another, which has a `device`, and what it takes.
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
    """What a user requests from a slice network for volumes or pictures.

    Args:
        name: of what it does, such as `source_to_target`, for file names.
        space: what the values of the network's answers stand for.
        num_samples: answers, whose mean is written; of more than one, their standard deviation is written too.
        seed: of random draws.
        clean_background: set what lies outside the input's patient to air.
        dicom: write DICOM series besides NIfTI.
        sidecar: what else the sidecars say.
    """

    name: str
    space: SliceSpace
    num_samples: int = 1
    seed: int = 0
    clean_background: bool = True
    dicom: bool = False
    sidecar: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole("num_samples", self.num_samples, 1)
        check_whole("seed", self.seed, 0)

    def made(self, one: Input, answer: Sequence[np.ndarray], affine: np.ndarray, shown: tuple[Tensor, ...]) -> Made:
        """For the answer on the input's grid, in [-1, 1]: the mean, and the standard deviation if there is one."""
        space, deviation = self.space, None
        low, high = space.bounds or (0.0, 1.0)
        facts = {"Seed": self.seed, "Samples": self.num_samples, "Split": one.entry.get("split")}
        sidecar = {"Units": space.units, "IntensityBounds": [low, high], **origin(one.source), **self.sidecar}
        if len(answer) > 1:
            quantity = f"standard deviation of the samples in each {'pixel' if space.modality == 'image' else 'voxel'}"
            deviation = ((answer[1] * ((high - low) / 2)).astype(np.float32), quantity)
        values, dicom = space.to_units(answer[0]), space.modality if self.dicom else None
        return Made(values, affine, facts, sidecar, [shown], deviation=deviation, dicom=dicom)


def write_volumes(
    inputs: Inputs, network: SliceNetwork, inferer: VolumeInferer, output: ImageFolder, request: VolumeRequest
) -> None:
    """Write what the network makes of each volume, on the volume's own grid; see `Route.run`.

    Args:
        inferer: prepares the volumes and takes them through the network.
    """
    space = request.space

    def make(batch: Sequence[Input]) -> Iterator[Made]:
        for one in batch:
            ready: ReadyVolume = one.ready
            answer = sampled(inferer, ready, network, request.num_samples, request.seed)
            on_grid = [ready.back(part) for part in answer if part is not None]
            made = request.made(one, on_grid, ready.affine, _pictures(ready, answer))
            if request.clean_background:
                outside = ready.back(torch.from_numpy(ready.outline)[None].float()) < 0.5
                in_hu = space.modality == "ct" and space.bounds
                made.values[outside] = AIR_HU if in_hu else space.to_units(np.array(AIR))
                if made.deviation:
                    made.deviation[0][outside] = 0
            yield replace(made, code=form_code(one.source.path))

    read = partial(read_ready, preprocessing=inferer.preprocessing, contrasts=inferer.contrasts)
    Route(request.name, read, make, "volumes are").run(inputs, output)


def _pictures(ready: ReadyVolume, answer: tuple[Tensor, Tensor | None]) -> tuple[Tensor, ...]:
    """A slice through the middle of the patient: before, after, and the deviation, whose white is its largest value."""
    middle = int(ready.patient.box[2].sum()) // 2
    inside = torch.from_numpy(ready.outline)
    volumes = [*ready.image.split(1), torch.where(inside, answer[0], AIR)]
    if answer[1] is not None:
        deviation = torch.where(inside, answer[1], 0)
        volumes.append(deviation / deviation.max().clamp(min=1e-6) * 2 - 1)
    return tuple(_thumbnail(volume[..., middle]) for volume in volumes)


def _thumbnail(image: Tensor) -> Tensor:
    """(1, rows, columns) -> (1, THUMBNAIL, THUMBNAIL)."""
    return FitPicture(THUMBNAIL)({Keys.IMAGE: convert_to_tensor(image, track_meta=False)})[Keys.IMAGE]


def _resampled(slices: Tensor, old: Sequence[float], new: Sequence[float]) -> tuple[Tensor, tuple[float, float]]:
    """Slices (N, rows, columns) of an old spacing (rows, columns, slices) in mm at a new one, from the same first edge
    on, and their spacing."""
    data = ResampleInPlane(tuple(new))({Keys.IMAGE: slices, "spacing_mm": tuple(old), "affine": np.eye(4)})
    return data[Keys.IMAGE], data["spacing_mm"][:2]
