"""Label maps, given or drawn, as the slices or volumes that a model draws images of, and these images' folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsynth.data.datalist import datalist
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.io import sources
from medsynth.data.io.segmentations import checked_classes, names_beside
from medsynth.data.preprocessing.label_slices import LEAST_LABELLED, label_slices, label_volume
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, plain_segmentation
from medsynth.errors import MedsynthError, is_number
from medsynth.inference.generate import Drawn, Request, slice_space, square, write_images
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.reconstruct import SEGMENTATION, match_in_folder
from medsynth.nn.conditioning import TrainingConditions
from medsynth.run.recipe import LoadedModel

MOST_DEFORMED = 2.0  # times as much as in training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSlice:
    """A slice of a label map, or a whole one, and what is known of it.

    Args:
        indices: (1, H, W) or (1, X, Y, Z) of the model's classes, uint8.
        digest: SHA-256 of its file; None: a model has drawn it.
        number: of the slice, among those that were taken of the file; None: it is a volume, or drawn.
        label: index of the image's class, -1 if unknown.
        position: NaN if unknown.
        covariates: (K,), NaN where unknown.
    """

    indices: Tensor
    digest: str | None
    number: int | None
    label: int
    position: float
    covariates: Tensor


def check_label_maps(
    model: LoadedModel, segmentations: str | None, deform: float, layout: str, draws: bool = False
) -> None:
    """Refuse label maps that are not there or of no use to a model, what is no strength of a deformation, and what is
    of no use without label maps.

    Args:
        draws: whether the model draws label maps where none are given.
    """
    if not is_number(deform) or not 0 <= deform <= MOST_DEFORMED:
        raise MedsynthError(f"deform is {deform!r}: give a number from 0 to {MOST_DEFORMED:g}, such as 1")
    if segmentations is None and (deform or (layout == "nnunet" and not draws)):
        key = "deform is given" if deform else "layout is nnunet"
        raise MedsynthError(f"{key} and there are no label maps: give a folder of them with --segmentations")
    if segmentations is not None and known_classes(model) and not Path(segmentations).exists():
        raise MedsynthError(
            f"segmentations {segmentations} does not exist: give a label map, a folder of them or a datalist"
        )


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
    classes, space = known_classes(model), slice_space(model)
    preprocessing = Preprocessing.from_dict(model.preprocessing)
    if is_datalist(path):
        spacing = None if preprocessing.modality == "image" else space.spacing_mm
        entries, known = _listed(path, model, covariates)
        how = {"covariates": known, "segmentation_classes": classes}
        dataset = SliceDataset(entries, replace(preprocessing, spacing_mm=spacing), model.classes, **how)
        maps = dataset.stored_slices.read(dataset.views["segmentation"])
        found = _of_dataset(dataset, maps, known, covariates)
        return [one for one in found if (one.indices > 0).float().mean() >= LEAST_LABELLED]
    middle = model.extra["segmentation"]["middle"]
    found = _of_files(path, classes, covariates, lambda file: label_slices(file, preprocessing, space, classes, middle))
    if not found:
        raise MedsynthError(f"the label maps of {path} show hardly anything: 1 % of a slice is needed")
    return found


def read_label_volumes(path: str | Path, model: LoadedModel, covariates: Sequence[str]) -> list[LabelSlice]:
    """The same of a model of volumes: whole label maps, on its grid."""
    classes, preprocessing = known_classes(model), VolumePreprocessing.from_dict(model.preprocessing)
    if is_datalist(path):
        entries, known = _listed(path, model, covariates)
        how = {"covariates": known, "segmentation_classes": classes}
        dataset = VolumeDataset(entries, preprocessing, model.classes, **how)
        stored = (dataset.stored_slices.read(rows[None]) for rows in dataset.views["segmentation"])
        maps = (plain_segmentation(one, preprocessing.size, preprocessing.finer or 1)[0] for one in stored)
        found = [one for one in _of_dataset(dataset, maps, known, covariates) if one.indices.any()]
    else:
        middle = model.extra["segmentation"]["middle"]
        found = _of_files(path, classes, covariates, lambda file: label_volume(file, preprocessing, classes, middle))
    return [replace(one, number=None) for one in found]


def is_datalist(path: str | Path) -> bool:
    """Whether label maps are those of a datalist."""
    return Path(path).suffix.lower() == ".json"


def _listed(path: str | Path, model: LoadedModel, covariates: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The training entries of a datalist (others are to test what learns from the images), and their covariates."""
    data = datalist.read(path)
    check_names(data.segmentation_classes, path, known_classes(model))
    entries = data.split("training")
    if strange := {entry["label"] for entry in entries if entry.get("label")} - set(model.classes or ()):
        log.warning(
            "the model does not know the class %s of the datalist: it counts as unknown", " or ".join(sorted(strange))
        )
    known = datalist.covariates_of(entries)
    return entries, [name for name in covariates if name in known]


def _of_files(
    path: str | Path, classes: dict[int, str], covariates: Sequence[str], cut: Callable[[Path], np.ndarray]
) -> list[LabelSlice]:
    """What is cut of a label map, or of all in a folder."""
    files = label_map_files(Path(path)) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise MedsynthError(f"segmentations {path} holds no label map: {sources.FORMATS} files are needed")
    check_names(*names_beside(files), classes)
    found, unknown = [], torch.full((len(covariates),), math.nan)
    for file in tqdm(files, "reading label maps", unit="map"):
        try:
            parts = cut(file)
        except MedsynthError as error:
            raise MedsynthError(f"label map {sources.shown(file)} {error}") from error
        digest = sources.digest(file)
        found += [
            LabelSlice(torch.from_numpy(one)[None], digest, number, -1, math.nan, unknown)
            for number, one in enumerate(parts)
        ]
    return found


def label_map_files(folder: Path) -> list[Path]:
    """The label maps in a folder: all of its images, or those that are label maps of others by their names."""
    files = sources.find_images(folder)
    if maps := {path for path, one in match_in_folder(files, folder).items() if one.key == SEGMENTATION}:
        log.info("%d label maps; %d other images beside them are left out", len(maps), len(files) - len(maps))
    return [file for file in files if file in maps] or files


def _of_dataset(
    dataset: SliceDataset | VolumeDataset, maps: Iterable[Tensor], known: Sequence[str], covariates: Sequence[str]
) -> list[LabelSlice]:
    """The maps of a dataset with what is known of its images.

    Args:
        known: the covariates of the dataset.
        covariates: those of the model.
    """
    digests = [sources.digest(entry["segmentation"]) for entry in dataset.entries]
    facts = dataset.facts(np.arange(len(dataset)))
    values = torch.full((len(dataset), len(covariates)), math.nan)
    for column, name in enumerate(known):
        values[:, list(covariates).index(name)] = facts["covariates"][:, column]
    owners = dataset.entry_indices
    numbers = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return [
        LabelSlice(one.to(torch.uint8), digests[owners[i]], int(numbers[i]), int(label), float(position), values[i])
        for i, (one, label, position) in enumerate(zip(maps, facts["label"], facts["position"], strict=True))
    ]


def check_names(names: Mapping[int, str], file: str | Path | None, classes: Mapping[int, str]) -> None:
    """Refuse label maps whose codes have other names than in the model; `class_2` is no name.

    Args:
        names: by code, of a file.
        classes: of the model, by code.

    Raises:
        MedsynthError: which code, and both names.
    """
    for code, name in names.items():
        known = classes.get(code, name)
        if code and known not in (name, f"class_{code}"):
            raise MedsynthError(
                f"code {code} is {name} in {file}, and {known} in the model: change the codes to the model's"
            )


def conditions_of(
    maps: Sequence[LabelSlice], request: Request, label: int | None, conditions: TrainingConditions
) -> tuple[Tensor, Tensor, Tensor]:
    """Class indices (N,), positions (N,) and covariates (N, K): what is requested, else what is known of label maps.

    Args:
        label: index of the requested class; None: none is.
        conditions: those of the model.
    """
    labels = torch.tensor([one.label if label is None else label for one in maps])
    covariates = conditions.requested(torch.stack([one.covariates for one in maps]), request.covariates)
    return labels, torch.tensor([one.position for one in maps]), covariates


def write_images_of(
    given: Sequence[LabelSlice],
    draw: Callable[[Sequence[LabelSlice]], Iterator[Drawn]],
    deformed: Callable[[Tensor, Sequence[str], int], Tensor] | None,
    request: Request,
    model: LoadedModel,
    output: ImageFolder,
    settings: Mapping[str, Any],
    dicom: bool = False,
) -> None:
    """Write an image of each label map, and the maps; where there are more than images, of some, evenly spread.

    Args:
        given: all from files, or all drawn.
        draw: yields an image of each map.
        deformed: indices of the classes, their names and a seed -> other indices; None: maps stay as they are.
        settings, dicom: as `write_images` takes them.
    """
    classes, count = segmentation_classes(model), request.num_images
    origin = "drawn" if given[0].digest is None else "given" if deformed is None else "deformed"
    kind = "label maps" if given[0].number is None else "slices of label maps"
    log.info("%d %s (%s) for %d images", len(given), kind, origin, count)
    few = np.arange(count) * len(given) // count if len(given) > count else np.arange(len(given))
    chosen = [given[few[index % len(few)]] for index in range(count)]
    if deformed is not None:
        names = list(classes.values())
        chosen = [
            replace(one, indices=deformed(one.indices, names, request.random_seed(index, 1)))
            for index, one in enumerate(chosen)
        ]
    known = [{"SegmentationDigest": one.digest, "SegmentationSlice": one.number} for one in chosen]
    facts = [{"SegmentationOrigin": origin} | {key: one[key] for key in one if one[key] is not None} for one in known]
    classes, codes = written_codes(classes, output.layout)
    maps = (codes[one.indices[0].numpy()] for one in chosen)
    columns = square(count)
    write_images(draw(chosen), count, request, model, output, columns, facts, settings, dicom, maps)
    output.describe_segmentations(classes)
