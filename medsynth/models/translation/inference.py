"""Inference with a trained translation: volumes or pictures of one domain to those of the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsynth.data.datalist import datalist
from medsynth.data.datalist.datalist import PAIR
from medsynth.data.datalist.names import domain_of
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference import reconstruct, suitability
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.pictures import PictureInferer, write_pictures
from medsynth.inference.volumes import SliceNetwork, VolumeInferer, VolumeRequest, write_volumes
from medsynth.models.translation.network import Translator
from medsynth.run.recipe import LoadedModel

log = logging.getLogger(__name__)

DIRECTIONS = {"source_to_target": ("source", "target"), "target_to_source": ("target", "source")}
"""Name -> the domain that is given, and the one that is made."""


def domains(direction: str) -> tuple[str, str]:
    """The domain that is given, and the one that is made."""
    if direction not in DIRECTIONS:
        raise MedsynthError(f"direction is {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[direction]


def find_inputs(path: str | None, direction: str) -> list[dict[str, Any]]:
    """{"image", "label"} of a volume, of all in a folder, or of a datalist, where "split" is added.

    Of a datalist of pairs, these are the images of the domain that the direction starts from.
    """
    given, _ = domains(direction)
    if path is None:
        return []
    if Path(path).suffix.lower() != ".json" or not _lists_pairs(path):
        inputs = reconstruct.find_inputs(path)
        found = [domain_of(Path(entry["image"]).relative_to(path)) for entry in inputs if Path(path).is_dir()]
        if {"source", "target"} <= set(found):
            inputs = [entry for entry, domain in zip(inputs, found, strict=True) if domain == given]
            log.info("of two domains in %s, the %d %s images are taken", path, len(inputs), given)
        return inputs
    splits = datalist.read(path, PAIR).splits
    found = [
        e | {"image": e[given], "split": split} for split, entries in splits.items() for e in entries if given in e
    ]
    if not found:
        raise MedsynthError(f"datalist {path} names no {given} images, and {direction} starts from them")
    return found


def _lists_pairs(path: str) -> bool:
    try:
        datalist.read(path)
    except MedsynthError:
        return True  # or it is invalid, which reading it as pairs will report
    return False


def space_of(model: LoadedModel, domain: str) -> SliceSpace:
    """The meaning of pixels and values of a domain.

    Raises:
        MedsynthError: the model is of another bundle.
    """
    if not isinstance(model.network, Translator):
        raise MedsynthError(
            f"the checkpoint holds a {type(model.network).__name__}: give the model.pt of a translation"
        )
    try:
        return SliceSpace(**model.extra["spaces"][domain])
    except (KeyError, TypeError) as error:
        raise MedsynthError(f"the checkpoint does not say what {domain} values stand for: train it again") from error


def preprocessing_of(model: LoadedModel, domain: str) -> Preprocessing:
    """The preprocessing of a domain, with the spacing of the training set."""
    spacing = space_of(model, domain).spacing_mm
    return replace(Preprocessing.from_dict(model.preprocessing[domain]), spacing_mm=spacing)


def suitable_inputs(
    inputs: Sequence[dict[str, Any]], model: LoadedModel, direction: str, force: bool
) -> list[dict[str, Any]]:
    """The inputs of the modality that the direction starts from; see `suitability.suitable`."""
    given, made = domains(direction)
    learned, pixels = preprocessing_of(model, given), space_of(model, given).spacing_mm
    other = next(name for name in DIRECTIONS if name != direction)
    others = {f"give --direction {other}": preprocessing_of(model, made)}
    return suitability.suitable(inputs, learned, (pixels, pixels), force, others)


def slice_network(model: LoadedModel, direction: str, sample: bool) -> SliceNetwork:
    """One direction of a model, for `VolumeInferer`.

    Args:
        sample: draw from the latent distribution, else take its mean.
    """
    network = getattr(model.network, direction).to(memory_format=torch.channels_last)

    def translate(slices: Tensor, positions: Tensor) -> Tensor:
        return network(slices.contiguous(memory_format=torch.channels_last), positions, sample=sample)

    return translate


def volume_inferer(
    model: LoadedModel,
    direction: str,
    planes: Sequence[str] | None,
    overlap: float,
    batch_size: int,
) -> VolumeInferer | PictureInferer:
    """Slices prepared as in training; see `VolumeInferer`, and `PictureInferer` for a model of pictures."""
    given, _ = domains(direction)
    preprocessing, device = preprocessing_of(model, given), next(model.network.parameters()).device
    if preprocessing.modality == "image":
        if planes is not None:
            raise MedsynthError("planes are of volumes, and this is a model of pictures: leave planes out")
        return PictureInferer(preprocessing, batch_size, device)
    return VolumeInferer(preprocessing, planes, overlap, batch_size, device)


class TranslationInference:
    """Writes the translation of each input to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        inferer: from `volume_inferer`.
        direction: of `DIRECTIONS`.
        inputs: from `find_inputs`.
        num_samples: draws from the latent distribution whose mean and deviation are written; 1: its mean translated.
        seed: of the draws.
        dicom: write DICOM series besides NIfTI.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        inferer: VolumeInferer | PictureInferer,
        direction: str,
        inputs: Sequence[Mapping[str, Any]],
        num_samples: int,
        seed: int,
        dicom: bool,
    ) -> None:
        recipes = (preprocessing_of(model, domain).to_dict() for domain in domains(direction))
        sidecar = dict(zip(("InputPreprocessing", "Preprocessing"), recipes, strict=True))
        sidecar |= {"Direction": direction}
        if isinstance(inferer, VolumeInferer):
            sidecar |= {"Planes": list(inferer.planes or [inferer.preprocessing.plane]), "Overlap": inferer.overlap}
        space = space_of(model, domains(direction)[1])
        self.request = VolumeRequest(direction, space, num_samples, seed, dicom=dicom, sidecar=sidecar)
        self.network = slice_network(model, direction, sample=num_samples > 1)
        self.inferer, self.inputs, self.output = inferer, inputs, output

    def run(self) -> None:
        """Translate and write all inputs."""
        if not self.inputs:
            raise MedsynthError("no input is given: name a volume, a DICOM folder, a folder of either or a datalist")
        write = write_pictures if isinstance(self.inferer, PictureInferer) else write_volumes
        write(self.inputs, self.network, self.inferer, self.output, self.request)
