"""Label maps that a user gives, as the slices that a model draws images of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsynth.data.datalist import datalist
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.io import sources
from medsynth.data.io.segmentations import checked_classes, names_beside
from medsynth.data.preprocessing.label_slices import LEAST_LABELLED, label_slices
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.inference.generate import slice_space
from medsynth.run.recipe import LoadedModel


@dataclass(frozen=True)
class LabelSlice:
    """A slice of a label map, and what is known of it.

    Args:
        indices: (1, H, W) of the model's classes, uint8.
        digest: SHA-256 of its file.
        number: of the slice, among those that were taken of the file.
        label: index of the image's class, -1 if unknown.
        position: NaN if unknown.
        covariates: (K,), NaN where unknown.
    """

    indices: Tensor
    digest: str
    number: int
    label: int
    position: float
    covariates: Tensor


def segmentation_classes(model: LoadedModel) -> dict[int, str]:
    """Names by code that a model learned; none, if it learned without label maps."""
    return checked_classes((model.extra.get("segmentation") or {}).get("classes", {}))


def known_classes(model: LoadedModel) -> dict[int, str]:
    """The same, of a model that is given label maps.

    Raises:
        MedsynthError: it learned without.
    """
    if not (classes := segmentation_classes(model)):
        raise MedsynthError(
            "segmentations is given, and the model learned without label maps: train one with --use_segmentation true"
        )
    return classes


def written_codes(classes: dict[int, str], layout: str) -> tuple[dict[int, str], np.ndarray]:
    """Names by the codes that a layout is written with, and these codes, in the order of the classes."""
    if layout == "nnunet":  # which needs codes without gaps
        classes = dict(enumerate(classes.values()))
    return classes, np.array(list(classes))


def has_segmentations(path: str | Path) -> bool:
    """Whether all training images of a datalist have label maps."""
    return all(entry.get("segmentation") for entry in datalist.read(path).split("training"))


def read_label_slices(path: str | Path, model: LoadedModel, covariates: Sequence[str]) -> list[LabelSlice]:
    """The slices of a label map, of all in a folder, or of the training images of a datalist, cut as these are.

    Args:
        covariates: that the model knows.

    Raises:
        MedsynthError: the model knows no label maps, there are none, or one cannot be used.
    """
    classes = known_classes(model)
    if Path(path).suffix.lower() == ".json":
        return _of_datalist(path, model, classes, covariates)
    if not Path(path).exists():
        raise MedsynthError(f"segmentations {path} does not exist: give a label map, a folder of them or a datalist")
    files = sources.find_images(path) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise MedsynthError(f"segmentations {path} holds no label map: {sources.FORMATS} files are needed")
    _check_names(files, classes)
    preprocessing, unknown = Preprocessing.from_dict(model.preprocessing), torch.full((len(covariates),), math.nan)
    found = []
    for file in tqdm(files, "reading label maps", unit="map"):
        try:
            slices = label_slices(
                file, preprocessing, slice_space(model), classes, model.extra["segmentation"]["middle"]
            )
        except MedsynthError as error:
            raise MedsynthError(f"label map {sources.shown(file)} {error}") from error
        digest = sources.digest(file)
        found += [
            LabelSlice(torch.from_numpy(one)[None], digest, number, -1, math.nan, unknown)
            for number, one in enumerate(slices)
        ]
    if not found:
        raise MedsynthError(f"the label maps of {path} show hardly anything: 1 % of a slice is needed")
    return found


def _of_datalist(
    path: str | Path, model: LoadedModel, classes: dict[int, str], covariates: Sequence[str]
) -> list[LabelSlice]:
    entries = datalist.read(path).split("training")  # others are to test what learns from the images
    known = datalist.covariates_of(entries)
    preprocessing = replace(Preprocessing.from_dict(model.preprocessing), spacing_mm=slice_space(model).spacing_mm)
    if preprocessing.modality == "image":
        preprocessing = replace(preprocessing, spacing_mm=None)
    dataset = SliceDataset(
        entries,
        preprocessing,
        model.classes,
        covariates=[name for name in covariates if name in known],
        segmentation_classes=classes,
    )
    digests = [sources.digest(entry["segmentation"]) for entry in dataset.entries]
    facts = dataset.facts(np.arange(len(dataset)))
    values = torch.full((len(dataset), len(covariates)), math.nan)
    for column, name in enumerate(name for name in covariates if name in known):
        values[:, list(covariates).index(name)] = facts["covariates"][:, column]
    maps = dataset.stored_slices.read(dataset.views["segmentation"]).to(torch.uint8)
    owners = dataset.entry_indices
    numbers = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return [
        LabelSlice(maps[i], digests[owners[i]], int(numbers[i]), int(label), float(position), values[i])
        for i, (label, position) in enumerate(zip(facts["label"], facts["position"], strict=True))
        if (maps[i] > 0).float().mean() >= LEAST_LABELLED
    ]


def _check_names(files: Sequence[Path], classes: dict[int, str]) -> None:
    names, file = names_beside(files)
    for code, name in names.items():
        if code and code in classes and name != classes[code]:
            raise MedsynthError(
                f"code {code} is {name} in {file} and {classes[code]} in the model: change the codes to the model's"
            )
