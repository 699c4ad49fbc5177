"""A user's volumes and pictures through a network, slice by slice, back onto a grid that overlays them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor

from medsynth.data.datalist import datalist
from medsynth.data.datalist.label_maps import LabelMap, match_label_maps
from medsynth.data.io import dicom, sources
from medsynth.data.io.sources import Source, header_or_none
from medsynth.data.preprocessing.pipelines import Preprocessing, volume_transforms
from medsynth.data.preprocessing.preparation import log_notes, prepare
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.spacing import SAME_SPACING, in_plane
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.image import psnr, ssim
from medsynth.inference.generate import slice_space
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.route import Input, Made, Route, one_below_the_other, some_slices, usable
from medsynth.run.recipe import LoadedModel

SEGMENTATION = "segmentation"
MAP_ENDINGS = (*sources.NIFTI_ENDINGS, *sources.ITK_ENDINGS, *sources.PICTURE_ENDINGS)

log = logging.getLogger(__name__)


def find_inputs(path: str | None) -> list[dict[str, Any]]:
    """{"image", "label"} of an image, of all images in a folder, sorted, or of a datalist, where "split" is added.

    Images beside which a label map lies, by their names, have its path as "segmentation".
    """
    if path is None:
        return []
    if Path(path).is_dir():
        found, maps = without_segmentations(sources.find_images(path), Path(path))
        if not (images := without_others(found)):
            raise MedsynthError(f"input {path} holds no image: {sources.FORMATS} files are needed")
        return [_entry(image, maps) for image in images]
    if Path(path).suffix.lower() == ".json":
        splits = datalist.read(path).splits
        return [entry | {"split": split} for split, entries in splits.items() for entry in entries]
    if not Path(path).is_file():
        raise MedsynthError(f"input {path} does not exist: give an image, a folder of images or a datalist")
    if not sources.is_image(path):
        raise MedsynthError(f"input {path} is not an image: {sources.FORMATS} is needed, or a datalist")
    beside = [Path(path), *(file for file in sorted(Path(path).parent.iterdir()) if file.name.endswith(MAP_ENDINGS))]
    return [_entry(Path(path), label_maps_of(dict.fromkeys(beside), Path(path).parent)[1])]


def _entry(image: Path, maps: Mapping[Path, Path]) -> dict[str, Any]:
    return {"image": str(image), "label": None} | ({"segmentation": str(maps[image])} if image in maps else {})


def label_maps_of(images: Iterable[Path], folder: Path) -> tuple[set[Path], dict[Path, Path]]:
    """The label maps and masks among a folder's images by their names, and the label map of each image that has one."""
    found = match_in_folder(images, folder)
    own = {folder / image: path for path, one in found.items() if one.key == SEGMENTATION for image in one.images}
    return set(found), own


def match_in_folder(images: Iterable[Path], folder: Path) -> dict[Path, LabelMap]:
    """What `match_label_maps` finds among a folder's images, by their paths; DICOM has no such names."""
    found = match_label_maps([path.relative_to(folder) for path in images if not sources.is_dicom(path)])
    return {folder / path: one for path, one in found.items()}


def without_segmentations(images: Sequence[Path], folder: Path) -> tuple[list[Path], dict[Path, Path]]:
    """A folder's images without its label maps and masks, which the log counts, and the label map of each image."""
    found, own = label_maps_of(images, folder)
    if found:
        log.info("%d segmentations, such as %s, are left out", len(found), min(found))
    return [path for path in images if path not in found], own


def without_others(images: Sequence[Path]) -> list[Path]:
    """Images without the DICOM objects that are no CT or MR, each named in the log; all of them if nothing is left."""
    others = {path: reason for path in images if sources.is_dicom(path) and (reason := dicom.unlisted(path))}
    if len(others) == len(images):
        return list(images)
    for path, reason in others.items():
        log.info("left out: %s %s", sources.shown(path), reason)
    return [path for path in images if path not in others]


@dataclass(frozen=True)
class Stack:
    """The slices of one image, prepared like the training slices.

    Args:
        slices: (N, 1, H, W) in [-1, 1].
        slice_indices: index of each along the slice axis.
        positions: (N,), NaN where unknown.
        affine: of the volume that `volume` makes.
        space: what the values stand for, with the image's own intensity bounds.
        segmentation: (N, 1, H, W), indices of the classes of its label map, uint8; None: it was not read.
    """

    slices: Tensor
    slice_indices: np.ndarray
    positions: Tensor
    affine: np.ndarray
    space: SliceSpace
    segmentation: Tensor | None = None

    def volume(self, slices: Tensor) -> np.ndarray:
        """(N, 1, H, W) in [-1, 1] -> (H, W, slices) in the image's units; slices that were left out are air."""
        return self.space.to_units(self.filled(slices[:, 0].float().numpy(), -1))

    def filled(self, slices: np.ndarray, value: float) -> np.ndarray:
        """(N, H, W) -> (H, W, slices), of one value in slices that were left out."""
        volume = np.full((*slices.shape[1:], self.slice_indices[-1] + 1), value, slices.dtype)
        volume[..., self.slice_indices] = np.moveaxis(slices, 0, -1)
        return volume


def read_stack(
    source: Source,
    preprocessing: Preprocessing,
    space: SliceSpace,
    segmentation_classes: Mapping[int, str] | None = None,
) -> Stack:
    """Prepare one image, and with classes, names by code, its label map.

    Raises:
        MedsynthError: what is wrong with it.
    """
    preprocessing = _with_spacing(source, preprocessing, space)
    pipeline = volume_transforms(preprocessing, segmentation_classes)
    slices, facts = prepare(source, preprocessing.modality, pipeline)
    if slices is None:
        raise MedsynthError(facts["error"])
    log_notes([source.path], [facts])
    segmentation = None
    if segmentation_classes:
        slices, maps = np.split(slices, 2)
        segmentation = torch.from_numpy(maps.astype(np.uint8))[:, None]
    space = replace(space, bounds=tuple(facts["bounds"]))
    affine, slice_indices = space.affine(slices.shape[1:]), np.arange(len(slices))
    if "affine" in facts:
        first, slice_indices = facts["slices"][0], np.array(facts["slices"]) - facts["slices"][0]
        affine = np.array(facts["affine"]) @ nib.affines.from_matvec(np.eye(3), [0, 0, first])
    positions = torch.tensor([math.nan if position is None else position for position in facts["positions"]])
    return Stack(torch.from_numpy(slices).float()[:, None], slice_indices, positions, affine, space, segmentation)


def _with_spacing(source: Source, preprocessing: Preprocessing, space: SliceSpace) -> Preprocessing:
    """The network was trained on one spacing: resample images of another."""
    if preprocessing.modality == "image" or preprocessing.spacing_mm is not None:
        return preprocessing
    header = header_or_none(source)
    if header is None or np.allclose(
        in_plane(header.spacing_mm, preprocessing.plane), space.spacing_mm, rtol=SAME_SPACING, atol=0
    ):
        return preprocessing
    return replace(preprocessing, spacing_mm=space.spacing_mm)


def stack_reader(
    model: LoadedModel, segmentation_classes: Mapping[int, str] | None = None
) -> Callable[[Source], Stack]:
    """What prepares images for a model, see `read_stack`."""
    preprocessing, space = Preprocessing.from_dict(model.preprocessing), slice_space(model)
    return partial(read_stack, preprocessing=preprocessing, space=space, segmentation_classes=segmentation_classes)


def read_stacks(inputs: Sequence[dict[str, Any]], model: LoadedModel) -> Iterator[tuple[int, dict[str, Any], Stack]]:
    """Prepare inputs one by one: each one's number, its entry and its slices; see `usable`.

    Args:
        inputs: from `find_inputs`.
    """
    for index, entry, _, stack in usable(inputs, stack_reader(model), "images"):
        yield index, entry, stack


def reconstruct(
    inputs: Sequence[dict[str, Any]],
    model: LoadedModel,
    inferer: Inferer,
    output: ImageFolder,
    batch_size: int,
    name: str = "reconstruct",
    changed: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a reconstruction of each input, with its PSNR and SSIM; see `Route.run`.

    Args:
        inputs: from `find_inputs`.
        inferer: calls the network on a batch of slices with their labels and positions, and with their covariates if
            the network knows some.
        batch_size: slices at a time; changes the memory it takes, not the result.
        name: of what is made, for file names.
        changed: facts of what is made that are other than the inputs'.
        settings: what else made it, for the sidecars.
    """

    def make(batch: Sequence[Input]) -> Iterator[Made]:
        for index, entry, source, stack in batch:
            fake = _through(model, inferer, stack, entry, batch_size)
            facts = {"Label": entry["label"], "Split": entry.get("split"), "Index": index, "Slices": len(fake)}
            facts |= closeness(fake, stack.slices) | (changed or {})
            sidecar = {"Units": stack.space.units, "InputDigest": sources.digest(source), **(settings or {})}
            some = some_slices(len(fake), len(inputs))
            shown = list(zip(stack.slices[some], fake[some], strict=True))
            yield Made(stack.volume(fake), stack.affine, facts, sidecar, shown)

    route = Route(name, stack_reader(model), make, f"inputs are {name}ed", one_below_the_other)
    route.run(inputs, output)
    for split in dict.fromkeys(row["split"] for row in output.rows):  # training patients have better values
        rows = [row for row in output.rows if row["split"] == split]
        means = (np.mean([row[name] for row in rows]) for name in ("psnr", "ssim"))
        log.info("mean PSNR %.2f dB, SSIM %.3f of the %d of %s", *means, len(rows), split or "this input")


def tell_of_unknown(inputs: Sequence[Mapping[str, Any]]) -> None:
    """Log that an edit knows neither class nor covariates of its inputs."""
    if not any(entry.get("label") or entry.get("covariates") for entry in inputs):
        log.info("class and covariates of the inputs are not known: a datalist as input gives them")


def label_index(entry: Mapping[str, Any], model: LoadedModel) -> int:
    """Of an image's class, as the model knows it; -1 where it doesn't."""
    return model.classes.index(entry["label"]) if entry["label"] in model.classes else -1


def covariates_of(entry: Mapping[str, Any], model: LoadedModel) -> Tensor:
    """(K,) of an image, as the model's network knows them; NaN where the datalist doesn't say."""
    known, names = entry.get("covariates") or {}, _covariate_names(model)
    return torch.tensor([float(known.get(name, math.nan)) for name in names])


def _covariate_names(model: LoadedModel) -> Sequence[str]:
    return getattr(getattr(model.network, "conditions", None), "covariates", ())


@torch.inference_mode()
def _through(model: LoadedModel, inferer: Inferer, stack: Stack, entry: Mapping[str, Any], batch_size: int) -> Tensor:
    """Reconstructions (N, 1, H, W) of a stack's slices, on the CPU."""
    device = next(iter(model.network.state_dict().values())).device
    conditions = [torch.full((len(stack.slices),), label_index(entry, model)), stack.positions]
    if _covariate_names(model):
        conditions.append(covariates_of(entry, model).repeat(len(stack.slices), 1))
    parts = []
    for slices, *facts in zip(*(part.split(batch_size) for part in (stack.slices, *conditions)), strict=True):
        parts.append(inferer(slices.to(device), model.network, *(fact.to(device) for fact in facts)).cpu())
    return torch.cat(parts)


def closeness(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Mean over the slices, or the volumes, of PSNR in dB and SSIM, within the intensity bounds."""
    pair = (fake + 1, real + 1)  # from 0: SSIM is for intensities that are not negative
    measures = {"PSNR": psnr(*pair, data_range=2.0), "SSIM": ssim(*pair, data_range=2.0)}
    return {name: round(values.mean().item(), 4) for name, values in measures.items()}
