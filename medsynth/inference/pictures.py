"""A slice network over pictures, and the results back at each picture's own size."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from tqdm import tqdm

from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing, read_picture
from medsynth.data.preprocessing.preparation import reason
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.transforms import FitPicture, ScaleToUnit, fitted
from medsynth.errors import MedsynthError, check_whole
from medsynth.inference.image_folder import ImageFolder, digits, spread
from medsynth.inference.volumes import MOST_SHOWN, SliceNetwork, VolumeRequest, sampled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyPicture:
    """A picture as a slice network takes it, and the way back.

    Args:
        image: (1, size, size) in [-1, 1], scaled to fit, on black.
        shape: rows and columns of the file.
    """

    image: Tensor
    shape: tuple[int, int]

    def back(self, answer: Tensor) -> np.ndarray:
        """(1, size, size) -> (rows, columns) of the file."""
        size = answer.shape[-1]
        if self.shape == (size, size):
            return answer[0].numpy()
        sides = fitted(self.shape, size)
        first = [(size - side) // 2 for side in sides]
        inside = answer[None, :, first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]]
        return F.interpolate(inside, size=self.shape, mode="bilinear", antialias=True)[0, 0].numpy()


@dataclass(frozen=True)
class PictureInferer:
    """Calls a slice network on pictures, prepared as those that it learned from.

    Args:
        preprocessing: of the pictures that the network learned from.
        batch_size: pictures at a time; changes the memory it takes, not the result.
        device: of the network.
    """

    preprocessing: Preprocessing
    batch_size: int = 8
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)

    def read(self, source: Source) -> ReadyPicture:
        """Prepare a picture.

        Raises:
            MedsynthError: what is wrong with it, in words that follow the file's name.
        """
        try:
            data = Compose(read_picture(self.preprocessing))({"source": source})
            shape = tuple(data[Keys.IMAGE].shape[1:])
            fit = Compose([ScaleToUnit(), FitPicture(self.preprocessing.image_size)])
            return ReadyPicture(fit(data)[Keys.IMAGE], shape)
        except Exception as error:
            raise MedsynthError(reason(error)) from error

    @torch.inference_mode()
    def __call__(self, batch: tuple[Tensor, Tensor], network: SliceNetwork) -> Tensor:
        """Pictures (N, 1, H, W) and their positions (N,), NaN where unknown -> (N, 1, H, W), on the CPU."""
        pictures, positions = (part.to(self.device) for part in batch)
        return network(pictures.repeat(1, self.preprocessing.channels, 1, 1), positions).cpu()


def write_pictures(
    inputs: Sequence[Mapping[str, Any]],
    network: SliceNetwork,
    space: SliceSpace,
    inferer: PictureInferer,
    output: ImageFolder,
    request: VolumeRequest,
) -> None:
    """Write what the network makes of each picture, at the picture's own size; see `volumes.write_volumes`.

    Args:
        inputs: {"image": path}, with "position" and "split" of a datalist.
    """
    if request.num_samples > 1 and output.format == "png":
        raise MedsynthError("a standard deviation of samples does not fit into PNG: leave format or num_samples out")
    names = [f"{request.name}_{index:0{digits(len(inputs))}d}" for index in range(len(inputs))]
    output.name_after(dict(zip(names, (entry["image"] for entry in inputs), strict=True)))
    shown, chosen = [], {names[index] for index in spread(len(inputs), MOST_SHOWN)}
    reasons: list[str] = []
    size = inferer.batch_size if request.num_samples == 1 else 1  # draws of a picture must not depend on the others
    for entries, positions in _batches(inputs, names, inferer, size, request.name, reasons):
        pictures = torch.stack([ready.image for _, _, ready in entries])
        answers, deviations = sampled(inferer, (pictures, positions), network, request.num_samples, request.seed)
        for index, (name, entry, ready) in enumerate(entries):
            deviation = None if deviations is None else deviations[index]
            _write(name, entry, ready, answers[index], deviation, space, output, request)
            if name in chosen or not shown:
                shown += [ready.image, answers[index]]
    if not shown:
        raise MedsynthError(f"none of the {len(inputs)} inputs can be used: {reasons[0]}")
    for line in reasons:
        log.warning("left out: %s", line)
    output.finish(torch.stack(shown), columns=2 * min(len(shown) // 2, 4))
    log.info("%d of %d pictures are in %s", len(inputs) - len(reasons), len(inputs), output.folder)


def _batches(
    inputs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    inferer: PictureInferer,
    size: int,
    title: str,
    reasons: list[str],
) -> Iterator[tuple[list[tuple[str, Mapping[str, Any], ReadyPicture]], Tensor]]:
    """Pictures that can be used, `size` at a time, and their positions; why others cannot goes to `reasons`."""
    ready: list[tuple[str, Mapping[str, Any], ReadyPicture]] = []
    for name, entry in zip(names, tqdm(inputs, desc=title, unit="picture"), strict=True):
        try:
            ready.append((name, entry, inferer.read(Source.of(entry))))
        except MedsynthError as error:
            reasons.append(f"{entry['image']} {error}")
        if len(ready) == size or (ready and entry is inputs[-1]):
            known = [one.get("position") for _, one, _ in ready]
            yield ready, torch.tensor([math.nan if position is None else position for position in known])
            ready = []


def _write(
    name: str,
    entry: Mapping[str, Any],
    ready: ReadyPicture,
    answer: Tensor,
    deviation: Tensor | None,
    space: SliceSpace,
    output: ImageFolder,
    request: VolumeRequest,
) -> None:
    """One picture, its standard deviation and its DICOM file."""
    source = Source.of(entry)
    low, high = space.bounds or (0.0, 1.0)
    facts = {"Seed": request.seed, "Samples": request.num_samples, "Split": entry.get("split")}
    digest = sources.digest(source)
    sidecar = {"Units": space.units, "IntensityBounds": [low, high], "InputDigest": digest}
    sidecar |= {"Sources": [f"hash://sha256/{digest}"], **request.sidecar}
    values = space.to_units(ready.back(answer))[..., None]
    affine = space.slice_affine(*ready.shape)
    output.write(name, values, affine, facts, sidecar)
    output.tell(name, source)
    if request.dicom:
        output.write_dicom(name, values, affine, space.modality, source)
    if deviation is not None:
        spread = (ready.back(deviation) * ((high - low) / 2)).astype(np.float32)[..., None]
        quantity = {"Quantity": "standard deviation of the samples in each pixel"}
        output.write(f"{name}_std", spread, affine, facts, sidecar | quantity)
