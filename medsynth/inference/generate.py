"""Latents to images on disk, for every model that can sample."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from skimage.color import label2rgb
from torch import Tensor, nn
from tqdm import tqdm

from medsynth.data.io.writing import safe
from medsynth.data.preprocessing.slice_space import SliceSpace, VolumeSpace
from medsynth.data.preprocessing.volume_grid import PLANES_SHOWN, three_planes
from medsynth.errors import MedsynthError, check_whole, is_number
from medsynth.inference.image_folder import GRID_COLUMNS, ImageFolder, digits
from medsynth.run.origin import evaluation_command
from medsynth.run.recipe import LoadedModel

BLOCK = 16  # images drawn together: a constant, since another number would give other images
UNLABELLED = "unlabelled"  # in file names
LABEL_MAPS = "segmentations"  # name of the grid that shows them
OPACITY = 0.35  # of their colours

log = logging.getLogger(__name__)

Drawn = tuple[Tensor, int, float] | tuple[Tensor, int, float, list[float]]
"""An image (C, H, W) or a volume (1, X, Y, Z) in [-1, 1], its class index, -1 if unknown, its position, NaN if unknown,
and, where the model has them, its covariates in their own units, NaN if unknown."""


@dataclass(frozen=True)
class Request:
    """What a user requests from a generator.

    Args:
        num_images: how many.
        label: name of a class; None: classes as frequent as in the training set.
        position: slice position, 0 at 150 mm below the top of the head and 1 at the top; of bodies, 0 and 1 at the
            lowest and the highest slice; of pictures, at a patient's first and last; None: as in the training set.
        seed: the same one gives the same images; the first of many are those of a smaller `num_images`.
        covariates: by name, such as {"age": 70}; those that are left out, and None: as in the training set.
    """

    num_images: int
    label: str | None
    position: float | None
    seed: int
    covariates: dict[str, float] | None = None

    def __post_init__(self) -> None:
        check_whole("num_images", self.num_images, 1)
        check_whole("seed", self.seed, 0)
        if self.position is not None and not (is_number(self.position) and 0 <= self.position <= 1):
            raise MedsynthError(
                f"position is {self.position!r}: give null or a number from 0 to 1; of heads, 0 is 150 mm below the "
                "top and 1 the top; of bodies and pictures, 0 is a patient's first slice and 1 the last"
            )
        asked = self.covariates
        if asked is not None and not (isinstance(asked, dict) and all(map(is_number, asked.values()))):
            raise MedsynthError(
                f"covariates is {asked!r}: give null, or a number for each name, such as \"{{'age': 70}}\""
            )

    def condition(self, model: LoadedModel) -> dict[str, Any]:
        """`label` and `position` as a network's `sample` takes them, and `covariates` if it was trained with some."""
        conditions = model.network.conditions
        if self.position is not None and not conditions.has_positions:
            raise MedsynthError("the training images of this model had no positions: leave position null")
        condition = {"label": self._class_index(model.classes), "position": self.position}
        conditions.check(self.covariates or {})
        return condition | ({"covariates": self.covariates} if conditions.covariates else {})

    def _class_index(self, classes: Sequence[str]) -> int | None:
        if self.label is None:
            return None
        if str(self.label) in classes:
            return list(classes).index(str(self.label))
        known = f"it has the classes {', '.join(classes)}" if classes else "it was trained without classes"
        raise MedsynthError(f"label is {self.label!r}, which the model does not know: {known}, or leave label null")

    def random_seed(self, *index: int) -> int:
        """A seed for each index in the set, so that its draws do not depend on earlier ones."""
        return int(np.random.SeedSequence([self.seed, *index]).generate_state(1, np.uint64)[0] >> 1)


def check_request(
    model: LoadedModel, kind: type[nn.Module], name: str, mode: str, modes: dict[str, bool | None], has_input: bool
) -> None:
    """Refuse a mode that a system does not have, the model of another system, and an input where none is read.

    Args:
        kind: of the system's networks.
        name: of the system, in words.
        modes: that it has, and whether each needs an input; None: it may have one.
    """
    if mode not in modes:
        raise MedsynthError(f"mode is {mode!r}: choose one of {', '.join(modes)}")
    if not isinstance(model.network, kind):
        raise MedsynthError(f"the checkpoint holds a {type(model.network).__name__}: give the model.pt of a {name}")
    if has_input and modes[mode] is False:
        advice = " or ".join(f"--mode {other}" for other, reads in modes.items() if reads is not False)
        raise MedsynthError(f"mode is {mode} and there is an input: add {advice}")
    if modes[mode] and not has_input:
        raise MedsynthError(
            f"mode is {mode} and there is no input: give an image, a folder of images or a datalist with --input"
        )


def refuse_unread(request: Request, mode: str, names: Iterable[str]) -> None:
    """Refuse what is requested and changes nothing in a mode, by its names."""
    for name in names:
        if getattr(request, name) is not None:
            raise MedsynthError(f"mode is {mode}, where {name} changes nothing: leave {name} null")


def check_batch_size(batch_size: int) -> None:
    """Refuse what is not a number of images."""
    check_whole("batch_size", batch_size, 1)


def slice_space(model: LoadedModel) -> SliceSpace | VolumeSpace:
    """What the pixels and values of a model's slices, or of its volumes, stand for."""
    if not isinstance(model.extra.get("slices"), dict):
        raise MedsynthError("the checkpoint has no spacing of its slices, it is of an older version: train it again")
    try:
        kind = SliceSpace if "slice_mm" in model.extra["slices"] else VolumeSpace
        return kind(**model.extra["slices"])
    except TypeError as error:
        raise MedsynthError(
            f"the checkpoint describes its slices in a way this version cannot read ({error})"
        ) from error


@torch.inference_mode()
def sampled(sample: Callable, request: Request, condition: dict[str, Any]) -> Iterator[Drawn]:
    """Draw images from a network's `sample(count, seed, label, position, ...)`, block by block."""
    for count, seed in blocks(request):
        images, *facts = (part.cpu() for part in sample(BLOCK, seed, **condition))
        yield from list(zip(images, *(fact.tolist() for fact in facts), strict=True))[:count]


def blocks(request: Request) -> Iterator[tuple[int, int]]:
    """Of each `BLOCK` of images, how many are wanted, and its seed."""
    for start in range(0, request.num_images, BLOCK):
        yield min(BLOCK, request.num_images - start), request.random_seed(start // BLOCK)


def write_images(
    drawn: Iterator[Drawn],
    count: int,
    request: Request,
    model: LoadedModel,
    output: ImageFolder,
    grid_columns: int,
    more_facts: Iterable[dict[str, Any]] = itertools.repeat({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
    dicom: bool = False,
    segmentations: Iterable[np.ndarray | None] = itertools.repeat(None),
) -> None:
    """Write generated slices or volumes, one file each, and the grid of the first.

    Args:
        count: how many `drawn` yields.
        grid_columns: images in a row of the grid.
        more_facts: for the sidecar of each image and its row in images.csv.
        settings: what else made the images, for the sidecars.
        dicom: write a series of each volume besides.
        segmentations: codes of the label map of each image, of its shape; None: it has none.
    """
    space = slice_space(model)
    # real slices are comparable with these if they have the same preprocessing and intensity bounds
    sidecar = {"Units": space.units, "IntensityBounds": list(space.bounds or (0.0, 1.0))}
    sidecar |= {"Preprocessing": model.preprocessing, **settings}
    names = getattr(getattr(model.network, "conditions", None), "covariates", ())
    shown: list[Tensor] = []
    maps: list[Tensor] = []
    progress = tqdm(drawn, desc="generating", total=count)
    parts = zip(progress, more_facts, segmentations, strict=False)
    for index, ((image, label, position, *covariates), more, labels) in enumerate(parts):
        label = model.classes[label] if 0 <= label < len(model.classes) else None
        name = image_name(label, request.seed, index, count)
        facts = {
            "Label": label,
            "Position": None if math.isnan(position) else round(position, 4),
            "Seed": request.seed,
            "Index": index,
        } | more
        if names and covariates:
            known = (None if math.isnan(value) else float(f"{value:.6g}") for value in covariates[0])
            facts["Covariates"] = dict(zip(names, known, strict=True))
        values = space.to_units(image[0].numpy())
        is_volume, affine = values.ndim == 3, space.affine(values.shape)
        if len(shown) < grid_columns * GRID_COLUMNS:
            shown.append(_plane(image, is_volume))
            maps += [] if labels is None else [_plane(torch.from_numpy(labels)[None].float(), is_volume)]
        values, labels = (part if is_volume or part is None else part[..., None] for part in (values, labels))
        output.write(name, values, affine, facts, sidecar, segmentation=labels)
        if dicom:
            output.write_dicom(name, values, affine, space.modality)
    output.finish(torch.stack(shown), grid_columns)
    pictures = str(output.folder / "grid.png") + (f" ({PLANES_SHOWN})" if is_volume else "")
    if maps:
        output.write_grid(overlaid(torch.stack(shown), torch.stack(maps)), grid_columns, LABEL_MAPS)
        pictures += f" and grid_{LABEL_MAPS}.png (the same, under a colour for each class of their label maps)"
    log.info("%d images are in %s; look at %s", count, output.folder, pictures)
    if command := evaluation_command():
        log.info("Next: %s", command)


def _plane(image: Tensor, is_volume: bool) -> Tensor:
    """(1, H, W): a slice, or three planes of a volume."""
    return three_planes(image[None])[0] if is_volume else image


def overlaid(images: Tensor, maps: Tensor) -> Tensor:
    """Images (N, 1, H, W) in [-1, 1] under their label maps, each class in one colour: (N, 3, H, W) in [-1, 1]."""
    grey, codes = ((images + 1) / 2).clamp(0, 1).flatten(0, 2), maps.clamp_min(0).flatten(0, 2).long()
    coloured = label2rgb(codes.numpy(), grey.numpy(), alpha=OPACITY, bg_label=0, bg_color=None)
    return torch.from_numpy(coloured).float().unflatten(0, (len(images), -1)).permute(0, 3, 1, 2) * 2 - 1


def image_name(label: str | None, seed: int, index: int, count: int) -> str:
    """Of a generated image's file, after the system's name."""
    return f"{safe(label) if label else UNLABELLED}_{seed}_{index:0{digits(count)}d}"


def square(count: int) -> int:
    """Columns of a grid of that many images."""
    return min(GRID_COLUMNS, math.ceil(count**0.5))
