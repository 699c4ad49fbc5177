"""Inference with a trained translation: volumes or pictures of one domain to those of the other."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsynth.data.datalist import datalist
from medsynth.data.datalist.datalist import PAIR
from medsynth.data.datalist.layout import images_by_subject
from medsynth.data.datalist.multicontrast import grouped_contrasts, known_contrast, without_name
from medsynth.data.datalist.names import domain_of
from medsynth.data.datalist.words import contrast_in
from medsynth.data.io import sources
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


def contrasts_of(model: LoadedModel | None, direction: str) -> tuple[str, ...]:
    """Names of those that a model takes as its source; none if that is one image.

    Raises:
        MedsynthError: it takes several, and the direction does not start from them.
    """
    contrasts = getattr(getattr(model, "network", None), "contrasts", ())
    if contrasts and direction != "source_to_target":
        raise MedsynthError(
            f"direction is {direction!r}, and this model of several sources ({', '.join(contrasts)}) makes the target "
            "from them alone: leave direction out, or train a model whose source is the target"
        )
    return contrasts


def find_inputs(path: str | None, direction: str, model: LoadedModel | None = None) -> list[dict[str, Any]]:
    """{"image", "label"} of a volume, of all in a folder, or of a datalist, where "split" is added.

    Of a datalist of pairs, these are the images of the domain that the direction starts from. For a model of several
    contrasts, each input is of a subject, with "sources": those of its contrasts that are there.
    """
    contrasts = contrasts_of(model, direction)
    given, _ = domains(direction)
    if path is None:
        return []
    if contrasts and (Path(path).suffix.lower() != ".json" or not _lists_pairs(path)):
        return _by_contrast(path, contrasts)
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
    return [check_sources(entry, contrasts) for entry in found] if given == "source" else found


def check_sources(entry: dict[str, Any], contrasts: Sequence[str]) -> dict[str, Any]:
    """An entry of a datalist whose sources a model knows.

    Raises:
        MedsynthError: it has another contrast, none that is named, or several where the model takes one.
    """
    own = entry.get("sources", {})
    if not contrasts and len(own) > 1:
        raise MedsynthError(
            f"{entry['subject']} has the sources {', '.join(own)}, and this model takes one image: list that alone"
        )
    if contrasts and (unknown := sorted(set(own) - set(contrasts))):
        raise _unknown(f"{entry['subject']} has a source of {unknown[0]}", contrasts)
    if contrasts and not own:
        raise _unknown(f"{entry['subject']} has a source without the name of a contrast", contrasts)
    return entry


def _by_contrast(path: str, contrasts: Sequence[str]) -> list[dict[str, Any]]:
    """Subjects with those of the contrasts that files show by their names; other files are left out."""
    if Path(path).is_dir():
        images, left_out = images_by_subject(Path(path))
        parts = [Path(one["image"]).relative_to(Path(path).absolute()) for one in images]
        for other, reason in left_out.items():
            log.info("left out: %s %s", sources.shown(other), reason)
    else:
        images = reconstruct.find_inputs(path)
        parts = [Path(*Path(one["image"]).parts[-2:]) for one in images]
    subjects: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: {name: [] for name in contrasts})
    strange: list[Path] = []
    for one, part in zip(images, parts, strict=True):
        if (name := known_contrast(part, contrasts)) is None:
            strange.append(part)
        else:
            subjects[str(one.get("subject", part.name))][name].append((without_name(part, name), one["image"]))
    if not subjects:
        raise _unknown(f"{strange[0]} shows {contrast_in(strange[0]) or 'no contrast by its name'}", contrasts)
    if strange:
        log.warning(
            "left out: %d images such as %s; this model knows %s", len(strange), strange[0], ", ".join(contrasts)
        )
    groups = [(subject, group) for subject, own in subjects.items() for group in grouped_contrasts(subject, own)]
    return [
        {"image": next(iter(group.values())), "sources": group, "subject": subject, "label": None}
        for subject, group in groups
    ]


def _unknown(what: str, contrasts: Sequence[str]) -> MedsynthError:
    known = ", ".join(contrasts)
    return MedsynthError(
        f"{what}, and this model knows {known}: give some of these, named so, such as a_{contrasts[0]}.nii.gz"
    )


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
    contrasts = contrasts_of(model, direction)
    preprocessing, device = preprocessing_of(model, given), next(model.network.parameters()).device
    if preprocessing.modality == "image":
        if planes is not None:
            raise MedsynthError("planes are of volumes, and this is a model of pictures: leave planes out")
        return PictureInferer(preprocessing, batch_size, device)
    return VolumeInferer(preprocessing, planes, overlap, batch_size, device, contrasts)


class TranslationInference:
    """Writes the translation of each input to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        inferer: from `volume_inferer`.
        direction: of `DIRECTIONS`.
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
        self.inferer, self.output = inferer, output

    def run(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Translate and write all inputs, from `find_inputs`."""
        if not inputs:
            raise MedsynthError("no input is given: name a volume, a DICOM folder, a folder of either or a datalist")
        write = write_pictures if isinstance(self.inferer, PictureInferer) else write_volumes
        write(inputs, self.network, self.inferer, self.output, self.request)
