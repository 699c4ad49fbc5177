"""The sets of an evaluation of volumes: real ones are brought to the grid of the synthetic ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from medsynth.data.datalist.datalist import Datalist
from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.io import sources
from medsynth.data.io.header import unreadable
from medsynth.data.preprocessing.region import choose_region
from medsynth.data.preprocessing.volume_grid import (
    LEAST_SIZE,
    SIZE_STEP,
    VolumePreprocessing,
    plain,
    plain_segmentation,
)
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.image_set import random_indices
from medsynth.evaluation.metrics.volumes.label_volumes import LabelMaps
from medsynth.evaluation.metrics.volumes.measures import check
from medsynth.evaluation.metrics.volumes.volume_set import VolumeSet
from medsynth.evaluation.report import synthetic
from medsynth.evaluation.report.compared_sets import (
    Preparation,
    labelled_classes,
    origin_facts,
    read_real_datalist,
)
from medsynth.evaluation.report.held_out import Patients, held_out_entries
from medsynth.evaluation.report.synthetic import SyntheticFile

MOST_VOLUMES = 300  # of a set: more would fill the memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volumes:
    """What is compared; see `compared_sets.Sets`.

    Args:
        maps: label maps; None where one of the sets has none.
    """

    train: VolumeSet
    held_out: VolumeSet
    synthetic: VolumeSet
    patients: Patients
    names: list[str]
    facts: dict[str, Any]
    left_out: list[str]
    maps: LabelMaps | None = None


def are_volumes(path: str | None, preparation: Preparation) -> bool:
    """Whether synthetic images are to be compared as whole volumes.

    Those made on a grid are. Without sidecars, volumes are unless a size is given for their slices.
    """
    first = synthetic.find(path)[0]
    if first.sidecar:
        return isinstance(first.sidecar["Preprocessing"].get("size"), list)
    return preparation.image_size is None and synthetic.is_volume(first)


def read_volumes(
    real: str | Datalist | None, path: str | None, preparation: Preparation, num_images: int | None, seed: int
) -> Volumes:
    """Read the synthetic volumes, then bring the real ones to their grid; arguments as `read_sets` has them.

    Raises:
        MedsynthError: the sets cannot be compared; it says why.
    """
    data = real if isinstance(real, Datalist) else read_real_datalist(real, preparation.labels)
    files = synthetic.choose(synthetic.find(path), num_images, seed)
    others = held_out_entries(data, preparation.split)
    recipe, segmented = synthetic.common_recipe(files), {}
    if recipe is not None:
        segmented = labelled_classes(files, [*data.split("training"), *others], data)
        preprocessing = _of_recipe(recipe, preparation)
        fake, names, left_out = _on_grid(files, preprocessing, preparation.max_bad_fraction)
    else:
        preprocessing = _guessed(files, preparation)
        entries = [{"image": str(f.path), "subject": f.subject or f.path.name, "label": f.label} for f in files]
        classes = sorted({file.label for file in files} - {None})
        fake, _ = _prepared(entries, preprocessing, preparation, classes, "synthetic volumes", seed)
        names, left_out = fake.subjects.tolist(), []
    how = {"preprocessing": preprocessing, "preparation": preparation, "classes": data.classes}
    how |= {"seed": seed, "segmentation_classes": segmented}
    train, of_train = _prepared(data.split("training"), name="real training volumes", **how)
    held_out, of_held_out = _prepared(others, name="real held-out volumes", **how)
    check(train, held_out, fake)
    maps = None
    if segmented:
        of_fake = synthetic.read_maps([file for file in files if file.path.name in set(names)], segmented)
        maps = LabelMaps(of_train, of_held_out, of_fake, list(segmented.values()))
    patients = Patients.of(others, held_out.subjects)
    facts = origin_facts(real, data, path, files) | {"preprocessing": preprocessing.to_dict()} | patients.facts
    return Volumes(train, held_out, fake, patients, names, facts, left_out, maps)


def _of_recipe(recipe: dict[str, Any], preparation: Preparation) -> VolumePreprocessing:
    for name in ("modality", "window", "spacing_mm", "image_size", "region"):
        if (given := getattr(preparation, name)) is not None:
            raise MedsynthError(
                f"{name} is {given!r}, and the sidecars of the synthetic volumes say how they were made: leave it out"
            )
    return VolumePreprocessing.from_dict(recipe)


def _guessed(files: Sequence[SyntheticFile], preparation: Preparation) -> VolumePreprocessing:
    """A grid of about the size and spacing of volumes without sidecars."""
    image = _canonical(files[0])
    size = tuple(max(LEAST_SIZE, -(-length // SIZE_STEP) * SIZE_STEP) for length in image.shape)
    modality, spacing = preparation.modality or "mri", preparation.spacing_mm or nib.affines.voxel_sizes(image.affine)
    entries = [{"image": str(file.path), "subject": file.path.name} for file in files]
    preprocessing = VolumePreprocessing(
        modality, preparation.window, tuple(map(float, spacing)), size, preparation.region, finer=1
    )
    log.warning(
        "the synthetic volumes have no sidecars of medsynth: all are prepared as modality %s, %s voxels of %s mm",
        *(modality, " x ".join(map(str, size)), " x ".join(f"{mm:.3g}" for mm in preprocessing.spacing_mm)),
    )
    return choose_region(entries, preprocessing, preparation.cache_dir, preparation.num_workers)


def _prepared(
    entries: Sequence[dict[str, Any]],
    preprocessing: VolumePreprocessing,
    preparation: Preparation,
    classes: Sequence[str],
    name: str,
    seed: int,
    segmentation_classes: Mapping[int, str] | None = None,
) -> tuple[VolumeSet, np.ndarray | None]:
    """Volumes on the grid, from [-1, 1] to [0, 1], and, with classes, their label maps (N, X, Y, Z)."""
    made = VolumeDataset(
        entries,
        preprocessing,
        classes,
        preparation.cache_dir,
        preparation.num_workers,
        max_bad_fraction=preparation.max_bad_fraction,
        segmentation_classes=segmentation_classes,
    )
    chosen = random_indices(len(made), MOST_VOLUMES, seed)
    grid, ways = (preprocessing.size, preprocessing.finer or 1), {"image": plain, "segmentation": plain_segmentation}
    views = {key: (made.stored_slices.read(rows[[index]]) for index in chosen) for key, rows in made.views.items()}
    found = {key: np.stack([ways[key](one, *grid)[0, 0].numpy() for one in stored]) for key, stored in views.items()}
    labels = [classes[made.labels[i]] if made.labels[i] >= 0 else None for i in chosen]
    volumes = VolumeSet(((found["image"] + 1) / 2).clip(0, 1), [made.subjects[i] for i in chosen], labels, name)
    return volumes, found["segmentation"].astype(np.uint8) if segmentation_classes else None


def _on_grid(
    files: Sequence[SyntheticFile], preprocessing: VolumePreprocessing, max_bad_fraction: float
) -> tuple[VolumeSet, list[str], list[str]]:
    """Volumes as they were generated, the file of each, and why others are left out."""
    volumes, good, bad = [], [], []
    for file in files[:MOST_VOLUMES]:
        try:
            volumes.append(_voxels(file, preprocessing))
            good.append(file)
        except MedsynthError as error:
            bad.append(f"{file.path} {error}")
    synthetic.check_left_out(bad, len(files), max_bad_fraction)
    names, labels = [file.path.name for file in good], [file.label for file in good]
    subjects = [file.subject or file.path.name for file in good]
    return VolumeSet(np.stack(volumes), subjects, labels, "synthetic volumes"), names, bad


def _voxels(file: SyntheticFile, preprocessing: VolumePreprocessing) -> np.ndarray:
    """(X, Y, Z) in [0, 1]."""
    values = np.asarray(_canonical(file).dataobj)
    if values.shape != preprocessing.size:
        raise MedsynthError(
            f"is {' x '.join(map(str, values.shape))}, and its sidecar says {' x '.join(map(str, preprocessing.size))}"
        )
    if not np.isfinite(values).all():
        raise MedsynthError("has values that are not finite (NaN): look at how it was made")
    low, high = file.sidecar.get("IntensityBounds", (0.0, 1.0))
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def _canonical(file: SyntheticFile) -> nib.Nifti1Image:
    """A volume whose axes run from left to right, from back to front and upwards."""
    try:
        image = sources.read_volume(file.path)
    except MedsynthError:
        raise
    except Exception as error:  # on damaged bytes, the libraries raise whatever comes
        raise MedsynthError(unreadable(error)) from error
    return nib.as_closest_canonical(nib.Nifti1Image(image[0].numpy(), np.asarray(image.affine)))
