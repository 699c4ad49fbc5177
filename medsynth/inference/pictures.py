"""A slice network over pictures, and the results at each picture's own size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing, read_picture
from medsynth.data.preprocessing.transforms import FitPicture, ScaleToUnit, fitted
from medsynth.errors import MedsynthError, check_whole
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.route import Input, Inputs, Made, Route
from medsynth.inference.volumes import SliceNetwork, VolumeRequest, sampled


@dataclass(frozen=True)
class ReadyPicture:
    """A picture prepared for a slice network, and the inverse.

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
    """Calls a slice network on pictures, prepared like its training pictures.

    Args:
        preprocessing: of the training pictures.
        batch_size: pictures at a time; changes the memory it takes, not the result.
        device: of the network.
    """

    preprocessing: Preprocessing
    batch_size: int = 8
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)

    def read(self, source: Source) -> ReadyPicture:
        """Prepare a picture."""
        data = Compose(read_picture(self.preprocessing))({"source": source})
        fit = Compose([ScaleToUnit(), FitPicture(self.preprocessing.image_size)])
        return ReadyPicture(fit(data)[Keys.IMAGE], tuple(data[Keys.IMAGE].shape[1:]))

    @torch.inference_mode()
    def __call__(self, batch: tuple[Tensor, Tensor], network: SliceNetwork) -> Tensor:
        """Pictures (N, 1, H, W) and their positions (N,), NaN where unknown -> (N, 1, H, W), on the CPU."""
        pictures, positions = (part.to(self.device) for part in batch)
        return network(pictures.repeat(1, self.preprocessing.channels, 1, 1), positions).cpu()


def write_pictures(
    inputs: Inputs, network: SliceNetwork, inferer: PictureInferer, output: ImageFolder, request: VolumeRequest
) -> None:
    """Write what the network makes of each picture, at the picture's own size; see `Route.run`."""
    if request.num_samples > 1 and output.format == "png":
        raise MedsynthError("a standard deviation of samples does not fit into PNG: leave format or num_samples out")

    def make(batch: Sequence[Input]) -> Iterator[Made]:
        pictures, known = torch.stack([one.ready.image for one in batch]), [one.entry.get("position") for one in batch]
        positions = torch.tensor([math.nan if position is None else position for position in known])
        answers = sampled(inferer, (pictures, positions), network, request.num_samples, request.seed)
        for index, one in enumerate(batch):
            on_grid = [one.ready.back(part[index])[..., None] for part in answers if part is not None]
            affine = request.space.affine(one.ready.shape)
            yield request.made(one, on_grid, affine, (one.ready.image, answers[0][index]))

    size = inferer.batch_size if request.num_samples == 1 else 1  # draws of a picture must not depend on the others
    route = Route(request.name, inferer.read, make, "pictures are", own_names=True, batch_size=size)
    route.run(inputs, output)
