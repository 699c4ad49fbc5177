"""Inference with a trained StyleGAN: new images, interpolations, mixed styles, projection and latent vectors."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from medsynth.errors import MedsynthError, is_number
from medsynth.inference.generate import (
    BLOCK,
    Drawn,
    Request,
    check_batch_size,
    check_request,
    refuse_unread,
    sampled,
    square,
    write_images,
)
from medsynth.inference.image_folder import GRID_COLUMNS, ImageFolder
from medsynth.inference.paths import STEPS, great_circle, strip_facts
from medsynth.inference.reconstruct import reconstruct
from medsynth.models.stylegan.latents_file import LATENTS, as_npz, latents_of_images
from medsynth.models.stylegan.network import StyleGan
from medsynth.models.stylegan.projection import Projection
from medsynth.run.recipe import LoadedModel

MODES = {"generate": False, "interpolate": False, "mix": False, "project": True, "embed": False}
"""And whether they need an input."""
PATHS = ("linear", "spherical")
FRAMES = 4 * (STEPS - 1) + 1  # of an animation from one end to the other
FRAME_MS, FRAME_PIXELS = 60, 128  # how long each is shown, and the least width of an image in it
STYLE_GROUPS = {"coarse": 3, "middle": 3, "fine": 2}  # and how many rows of the mixing table each has

log = logging.getLogger(__name__)


class StyleGanInference:
    """Writes what is asked for to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        mode: `generate`; `interpolate`: strips of `STEPS` images along a way through W, as many as hold `num_images`;
            `mix`: a table of images with styles of two; `project`: the inputs as the network can draw them; `embed`:
            the latent vectors alone.
        request: what to draw.
        truncation: 1 for the full variety, towards 0 for images nearer to the mean.
        path: `linear`, or `spherical`: a circle round the mean of W.
        projection: how inputs are sought in W, for `project`.
        input: where the inputs of `run` are; None: there are none.
        batch_size: slices projected at a time.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        mode: str,
        request: Request,
        truncation: float,
        path: str,
        projection: Projection | None,
        input: str | None,
        batch_size: int,
    ) -> None:
        check_request(model, StyleGan, "StyleGAN", mode, MODES, input is not None)
        check_batch_size(batch_size)
        refuse_unread(request, mode, ("label", "position") if mode == "project" else ())
        if not is_number(truncation) or not 0 <= truncation <= 1:
            raise MedsynthError(
                f"truncation is {truncation!r}: give a number from 0, the mean image, to 1, all variety"
            )
        if path not in PATHS:
            raise MedsynthError(f"path is {path!r}: choose one of {', '.join(PATHS)}")
        self.model, self.network, self.output = model, model.network, output
        self.mode, self.request, self.truncation, self.path = mode, request, truncation, path
        self.condition = request.condition(model)
        self.settings = {"Mode": mode, "Truncation": truncation}
        self.projection, self.batch_size = projection, batch_size

    def run(self, inputs: Sequence[dict[str, Any]] = ()) -> None:
        """Do it; `find_inputs` looks for the inputs once the constructor has checked the request."""
        if self.mode == "project":
            self.project(inputs)
        else:
            getattr(self, self.mode)()

    def generate(self) -> None:
        """Images, their latent vectors, and, where all classes are asked for, a grid of each."""
        request, model = self.request, self.model
        condition = self.condition | {"truncation": self.truncation}
        drawn = sampled(self.network.sample, request, condition)
        columns = square(request.num_images)
        write_images(drawn, request.num_images, request, model, self.output, columns, settings=self.settings)
        self._write_latents()
        if request.label is None and len(model.classes) > 1:
            self._grids_of_classes(condition)

    def embed(self) -> None:
        """The latent vectors of the images that `generate` would write."""
        self._write_latents()
        log.info("the latent vectors of %d images are in %s", self.request.num_images, self.output.folder / LATENTS)

    def interpolate(self) -> None:
        """Strips from one sample to another of its class, and an animation of them side by side, forth and back."""
        count = -(-self.request.num_images // STEPS)
        strips = [self._strip(number) for number in range(count)]
        drawn = (image for strip in strips for image in strip.images(STEPS))
        facts, settings = strip_facts(count), self.settings | {"Path": self.path}
        write_images(drawn, count * STEPS, self.request, self.model, self.output, STEPS, facts, settings)
        shown = [[image for image, *_ in strip.images(FRAMES)] for strip in strips[:GRID_COLUMNS]]
        self.output.write_extra("interpolation.gif", animation(shown))

    def mix(self) -> None:
        """A table: source A above, source B on the left, and between them A with some styles of B."""
        styles, label, positions = self._draw(0, GRID_COLUMNS - 1 + sum(STYLE_GROUPS.values()), one_position=True)
        images, names = mixing_table(self.network, styles, self._mean(label))
        drawn = ((image, label, positions[0].item()) for image in images)
        facts = [{"Styles": name} for name in names]
        write_images(drawn, len(images), self.request, self.model, self.output, GRID_COLUMNS, facts, self.settings)

    def project(self, inputs: Sequence[dict[str, Any]]) -> None:
        """The images nearest to the inputs that the network can draw, and their latent vectors."""
        settings = {"Mode": self.mode, "Space": self.projection.space, "Steps": self.projection.steps}
        reconstruct(inputs, self.model, self.projection, self.output, self.batch_size, settings=settings)
        files = np.repeat([row["file"] for row in self.output.rows], [row["slices"] for row in self.output.rows])
        self.output.write_extra("projected.npz", as_npz({"w": self.projection.found.numpy(), "image": files}))

    def _write_latents(self) -> None:
        output = self.output
        columns = latents_of_images(self.model, self.request, self.truncation, output.stem, output.ending)
        output.write_extra(LATENTS, as_npz(columns))

    def _grids_of_classes(self, condition: dict[str, Any]) -> None:
        """81 images of each class, from the same latent vectors: images at one position differ in the class only."""
        request = Request(GRID_COLUMNS**2, None, self.request.position, self.request.seed)
        for index, name in enumerate(self.model.classes):
            images = [image for image, *_ in sampled(self.network.sample, request, condition | {"label": index})]
            self.output.write_grid(torch.stack(images), GRID_COLUMNS, name)

    @torch.inference_mode()
    def _draw(self, number: int, count: int, one_position: bool = False) -> tuple[Tensor, int, Tensor]:
        """Styles (count, features) of one class, the class, and their positions (count,)."""
        condition, network = self.condition, self.network
        random = torch.Generator().manual_seed(self.request.random_seed(number))
        label = condition["label"]
        if label is None:
            label = network.conditions.sample(1, generator=random)[0].item()
        labels, positions, _ = network.conditions.sample(count, label, condition["position"], random)
        positions = positions[:1].expand(count) if one_position else positions
        latents = torch.randn(count, network.latent_features, generator=random).to(positions.device)
        styles = network.truncate(network.mapping(latents, labels, positions), self.truncation, labels)
        return styles, label, positions

    def _strip(self, number: int) -> Strip:
        """From one sample to another of its class."""
        styles, label, positions = self._draw(number, 2)
        centre = self._mean(label) if self.path == "spherical" else None
        return Strip(self.network, *styles.split(1), centre, label, *positions.tolist())

    def _mean(self, label: int) -> Tensor:
        """(1, features), the mean style of a class."""
        means = self.network.style_means
        return self.network.truncate(means[:1], 0.0, torch.full((1,), label, device=means.device))


@dataclass(frozen=True)
class Strip:
    """A path through W.

    Args:
        start, end: (1, features).
        centre: (1, features), of the circle that the path is part of; None: a straight path.
        label: of all its images.
        first, last: positions of the two ends; images between have a position only if both are the same.
    """

    network: StyleGan
    start: Tensor
    end: Tensor
    centre: Tensor | None
    label: int
    first: float
    last: float

    def styles(self, steps: int) -> Tensor:
        """(steps, features), the two ends among them."""
        shares = torch.linspace(0, 1, steps).tolist()
        if self.centre is None:
            return torch.cat([self.start.lerp(self.end, share) for share in shares])
        start, end = self.start - self.centre, self.end - self.centre
        return self.centre + torch.cat([great_circle(start, end, share) for share in shares])

    def images(self, steps: int) -> Iterator[Drawn]:
        """The images of `steps` styles, with the same noise."""
        between = self.first if self.first == self.last else math.nan
        positions = [self.first, *[between] * (steps - 2), self.last]
        images = drawn_with_fixed_noise(self.network, self.network.spread(self.styles(steps)))
        yield from ((image, self.label, position) for image, position in zip(images, positions, strict=True))


@torch.inference_mode()
def drawn_with_fixed_noise(network: StyleGan, styles: Tensor) -> Tensor:
    """Styles (N, layers, features) -> images (N, 1, H, W) in [-1, 1] on the CPU."""
    return torch.cat([network.synthesis(part, noise="fixed").clamp(-1, 1).cpu() for part in styles.split(BLOCK)])


def mixing_table(network: StyleGan, styles: Tensor, mean: Tensor) -> tuple[Tensor, list[str]]:
    """Images row by row, with their names: first the mean and the sources A, then rows of a source B and its mixtures.

    Args:
        styles: (16, features), 8 sources A and as many B.
        mean: (1, features).

    Reference: Karras et al., StyleGAN, arXiv:1812.04948, fig. 3.
    """
    count = GRID_COLUMNS - 1
    first, second = network.spread(styles[:count]), network.spread(styles[count:])
    wanted, names = [network.spread(mean), first], ["mean", *(f"A{i + 1}" for i in range(count))]
    groups = [name for name, rows in STYLE_GROUPS.items() for _ in range(rows)]
    for row, (source, group) in enumerate(zip(second, groups, strict=True)):
        wanted += [source[None], mixed(first, source.expand_as(first), group)]
        names += [f"B{row + 1}", *(f"A{i + 1} with {group} of B{row + 1}" for i in range(count))]
    return drawn_with_fixed_noise(network, torch.cat(wanted)), names


def mixed(first: Tensor, second: Tensor, group: str) -> Tensor:
    """Styles (N, layers, features) of `first`, those of one of STYLE_GROUPS from `second`.

    The resolutions, of two layers each, are divided evenly; the lower groups get one more where their number is no
    multiple of three. At 64 pixels and above, this is close to the paper: coarse up to 8 pixels, middle up to 32.
    """
    resolutions = torch.arange(first.shape[1] // 2).tensor_split(len(STYLE_GROUPS))[list(STYLE_GROUPS).index(group)]
    layers = torch.cat([2 * resolutions, 2 * resolutions + 1])
    result = first.clone()
    result[:, layers] = second[:, layers]
    return result


def animation(strips: Sequence[Sequence[Tensor]]) -> bytes:
    """A looping GIF of strips side by side, each (1, H, W) in [-1, 1], forth and back."""
    forth = [torch.stack(images) for images in zip(*strips, strict=True)]
    frames = []
    for images in [*forth, *forth[-2:0:-1]]:
        grid = make_grid((images + 1) / 2, nrow=square(len(images)))[0]
        picture = Image.fromarray((grid.clamp(0, 1) * 255).round().byte().numpy())
        times = max(1, FRAME_PIXELS // images.shape[-1])
        frames.append(picture.resize((times * picture.width, times * picture.height), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return buffer.getvalue()
