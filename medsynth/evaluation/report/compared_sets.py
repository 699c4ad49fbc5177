"""The image sets of an evaluation: real slices are prepared as for the training of the generator."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medsynth.data.datalist.datalist import Datalist
from medsynth.data.datasets.slices import SAME_SPACING, SliceDataset
from medsynth.data.io import sources
from medsynth.data.phantom import default
from medsynth.data.preprocessing.picture_range import choose_range
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.region import first_images
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.segmentation_utility import LabelledSet
from medsynth.evaluation.report import synthetic
from medsynth.evaluation.report.held_out import Patients, check_split, held_out_entries
from medsynth.evaluation.report.synthetic import SyntheticFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """How images become slices in [0, 1]; None: as the sidecars of the synthetic images say.

    Args:
        modality, window, spacing_mm, image_size, region: as in a train.json.
        labels: of the real images that are taken; None: of all.
        split: of the real images that are compared with: `validation`, `test` or `both`.
        max_bad_fraction: part of the images of a set that may be unusable.
        cache_dir: folder of prepared slices; None: as in training.
        num_workers: processes that prepare volumes.
    """

    modality: str | None = None
    window: str | Sequence[float] | None = None
    spacing_mm: Sequence[float] | None = None
    image_size: int | None = None
    region: str | None = None
    labels: str | Sequence[str] | None = None
    split: str = "test"
    max_bad_fraction: float = 0.1
    cache_dir: str | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)

    def slices(
        self,
        entries: Sequence[dict[str, Any]],
        preprocessing: Preprocessing,
        classes: Sequence[str] = (),
        segmentation_classes: Mapping[int, str] | None = None,
    ):
        """The prepared slices of some images, as a `SliceDataset`."""
        return SliceDataset(
            entries,
            preprocessing,
            classes,
            self.cache_dir,
            self.num_workers,
            max_bad_fraction=self.max_bad_fraction,
            segmentation_classes=segmentation_classes,
        )


@dataclass(frozen=True)
class Sets:
    """What is compared.

    Args:
        train: real images that the generator saw: the datalist's training split.
        held_out: real images of other subjects.
        synthetic: the generated ones.
        patients: of `held_out`.
        names: (N,), the file of each synthetic image.
        classes: of the training split.
        facts: what a reader must know about them, by name, in plain values.
        left_out: synthetic images that could not be used, and why.
        labelled: the same real training, real held-out and synthetic images with their label maps, and the names of
            the classes; None where one of the sets has none.
    """

    train: ImageSet
    held_out: ImageSet
    synthetic: ImageSet
    patients: Patients
    names: list[str]
    classes: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    labelled: tuple[LabelledSet, LabelledSet, LabelledSet, list[str]] | None = None


def origin_facts(
    real: str | Datalist | None, data: Datalist, synthetic_path: str | None, files: Sequence[SyntheticFile]
) -> dict[str, Any]:
    """For provenance.json: which sets are compared, and which model made the synthetic one."""
    return {
        "real": data.name if isinstance(real, Datalist) else str(real or "built-in phantom"),
        "real_sha256": data.digest,
        "synthetic": str(synthetic_path),
        "model_sha256": ", ".join(sorted({file.sidecar.get("ModelDigest", "") for file in files} - {""})) or None,
    }


def read_sets(
    real: str | Datalist | None, synthetic_path: str | None, preparation: Preparation, num_images: int | None, seed: int
) -> Sets:
    """Read the synthetic images, then prepare the real ones as they were.

    Args:
        real: a datalist; None: the built-in phantom.
        synthetic_path: a folder of images, or a datalist.
        num_images: take that many of the synthetic images at random; None: all.

    Raises:
        MedsynthError: the sets cannot be compared; it says why.
    """
    data = real if isinstance(real, Datalist) else read_real_datalist(real, preparation.labels)
    files = synthetic.choose(synthetic.find(synthetic_path), num_images, seed)
    preprocessing = _preprocessing(files, preparation, data)
    if synthetic.is_volume(files[0]) or _is_of_other_size(files, preprocessing):
        fake, names, spacing = _volumes(files, preprocessing, preparation)
        left_out: list[str] = []
    else:
        fake, names, left_out = _slices(files, preprocessing, preparation)
        spacing = _spacing(files[0])
    _check_size(fake, preprocessing)
    others = held_out_entries(data, preparation.split)
    segmented = labelled_classes(files, [*data.split("training"), *others], data)
    train, held_out = _real(data, others, preprocessing, preparation, spacing, segmented)
    patients = Patients.of(others, held_out.subjects)
    facts = (
        origin_facts(real, data, synthetic_path, files)
        | {
            "preprocessing": train.preprocessing.to_dict(),
            "pixel_mm": None if preprocessing.modality == "image" else list(train.spacing_mm),
            "label_maps": maps_in_words(files, data.split("training"), others) if segmented else None,
        }
        | patients.facts
    )
    train_set = _image_set(train, data.classes, "real training images")
    held_out_set = _image_set(held_out, data.classes, "real held-out images")
    labelled = None
    if segmented:
        maps = synthetic.read_maps([file for file in files if file.path.name in set(names)], segmented)
        labelled = (
            _labelled(train_set, train),
            _labelled(held_out_set, held_out),
            LabelledSet(fake.images, maps, list(fake.subjects)),
            list(segmented.values()),
        )
    return Sets(train_set, held_out_set, fake, patients, names, data.classes, facts, left_out, labelled)


def labelled_classes(
    files: Sequence[SyntheticFile], entries: Sequence[dict[str, Any]], data: Datalist
) -> dict[int, str]:
    """The classes of the label maps, if all images have one; else none."""
    is_labelled = all(file.segmentation for file in files) and all(entry.get("segmentation") for entry in entries)
    return data.segmentation_classes if is_labelled else {}


def maps_in_words(
    files: Sequence[SyntheticFile], training: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> str | None:
    """Which label maps the synthetic images were drawn of, and whose these are, unless drawn too; None: of none."""
    sidecars = [file.sidecar for file in files if file.sidecar.get("SegmentationDigest")]
    if not sidecars:
        count = sum(file.sidecar.get("SegmentationOrigin") == "drawn" for file in files)
        return f"drawn by the model ({count:,})" if count else None
    groups = {"training patients": training, "held-out patients": others}
    whose = {sources.digest(entry["segmentation"]): name for name, group in groups.items() for entry in group}
    counts = Counter(whose.get(sidecar["SegmentationDigest"], "others") for sidecar in sidecars)
    if tested := counts["held-out patients"]:
        log.warning(
            "%d synthetic images are of label maps of held-out patients: measures of label maps flatter", tested
        )
    origins = sorted({str(sidecar.get("SegmentationOrigin")) for sidecar in sidecars})
    return f"{' and '.join(origins)}, of " + ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def _labelled(images: ImageSet, made: SliceDataset) -> LabelledSet:
    maps = made.stored_slices[made.views["segmentation"][:, 0]].astype(np.uint8)
    return LabelledSet(images.images, maps, list(images.subjects))


def _is_of_other_size(files: Sequence[SyntheticFile], preprocessing: Preprocessing) -> bool:
    """Whether these are pictures that a model gave back at the sizes of its inputs."""
    if preprocessing.modality != "image" or not files[0].sidecar.get("InputDigest"):
        return False
    return any(set(sources.read_header(file.path).shape) - {1} != {preprocessing.image_size} for file in files)


def _check_size(fake: ImageSet, preprocessing: Preprocessing) -> None:
    rows, columns = fake.images.shape[1:]
    size = preprocessing.image_size
    if (rows, columns) != (size, size):
        raise MedsynthError(
            f"the synthetic images are {rows} x {columns} and the real slices would be {size} x {size}: leave "
            "image_size out, or give square images of that size"
        )


def _real(
    data: Datalist,
    others: Sequence[dict[str, Any]],
    preprocessing: Preprocessing,
    preparation: Preparation,
    spacing: tuple[float, float] | None,
    segmented: Mapping[int, str],
) -> tuple[SliceDataset, SliceDataset]:
    """Training and held-out slices, with pixels as wide as those of the synthetic images."""
    train = preparation.slices(data.split("training"), preprocessing, data.classes, segmented)
    if spacing is not None and not np.allclose(train.spacing_mm, spacing, rtol=SAME_SPACING, atol=0):
        if preparation.spacing_mm is not None:
            raise MedsynthError(
                f"spacing_mm is {list(preparation.spacing_mm)} and the synthetic images have pixels of "
                f"{spacing[0]:g} x {spacing[1]:g} mm: leave spacing_mm out"
            )
        log.info("real slices are brought to the %g x %g mm of the synthetic images", *spacing)
        at_their_spacing = replace(train.preprocessing, spacing_mm=spacing)
        train = preparation.slices(data.split("training"), at_their_spacing, data.classes, segmented)
    return train, preparation.slices(others, train.preprocessing, data.classes, segmented)


def read_real_datalist(real: str | None, labels: str | Sequence[str] | None = None) -> Datalist:
    """The real images, split by patient; only a datalist says which of them the generator saw.

    Args:
        labels: of the images that are taken; None: of all.
    """
    if real is not None and Path(real).is_dir():
        raise MedsynthError(
            f"real {real} is a folder, which does not say what the generator was trained on: give its datalist, or "
            f"make one with tools/make_datalist.py {real} data/real.json"
        )
    return default.load(real, labels=labels)


def _preprocessing(files: Sequence[SyntheticFile], preparation: Preparation, data: Datalist) -> Preprocessing:
    """The settings of the command line, else those of the sidecars, else a guess from the files."""
    said = {name: getattr(preparation, name) for name in ("modality", "window", "spacing_mm", "image_size", "region")}
    given = {name: value for name, value in said.items() if value is not None}
    if recipe := synthetic.common_recipe(files):
        return Preprocessing.from_dict(recipe | given)
    pictures = sources.is_picture(data.splits["training"][0]["image"])
    header = sources.read_header(files[0].path)
    if header.shape[2] == 1:
        given = {"image_size": header.shape[0]} | given
    elif preparation.image_size is None:
        raise MedsynthError("the synthetic images are volumes: give the size of the slices to compare, --image_size 64")
    guess = {
        "modality": "image" if pictures else "mri",
        "window": None,
        "spacing_mm": None,
        "grey": True,
        "region": None,
    }
    images, settings = first_images(data.entries), Preprocessing(**(guess | given))
    preprocessing = choose_range(images, settings, preparation.cache_dir, preparation.num_workers)
    log.warning(
        "the synthetic images have no sidecars of medsynth: real images are prepared as modality %s, window %s",
        preprocessing.modality,
        preprocessing.window,
    )
    return preprocessing


def _slices(
    files: Sequence[SyntheticFile], preprocessing: Preprocessing, preparation: Preparation
) -> tuple[ImageSet, list[str], list[str]]:
    images, good, bad = synthetic.read_slices(files, preprocessing.window, preparation.max_bad_fraction)
    readable = [files[i] for i in good]
    names = [file.path.name for file in readable]
    subjects = [file.subject or name for file, name in zip(readable, names, strict=True)]
    labels, positions = [file.label for file in readable], [file.position for file in readable]
    return ImageSet(images, subjects, labels, positions, "synthetic images"), names, bad


def _volumes(
    files: Sequence[SyntheticFile], preprocessing: Preprocessing, preparation: Preparation
) -> tuple[ImageSet, list[str], tuple[float, float]]:
    """Their slices; the name of each is its volume's."""
    entries = [{"image": str(f.path), "subject": f.subject or f.path.name, "label": f.label} for f in files]
    classes = sorted({file.label for file in files} - {None})
    made = preparation.slices(entries, preprocessing, classes)
    return _image_set(made, classes, "synthetic images"), made.subjects, made.spacing_mm


def _spacing(file: SyntheticFile) -> tuple[float, float] | None:
    """Between rows and columns, where the file says it in mm."""
    if sources.is_picture(file.path) or file.sidecar.get("Preprocessing", {}).get("modality") == "image":
        return None
    if synthetic.is_nifti(file.path) and nib.load(file.path).header.get_xyzt_units()[0] != "mm":
        return None
    rows, columns, _ = sources.read_header(file.path).spacing_mm
    return float(rows), float(columns)


def _image_set(made: SliceDataset, classes: Sequence[str], name: str) -> ImageSet:
    """Prepared slices from [-1, 1] to [0, 1]."""
    images = (np.asarray(made.images[:], dtype=np.float32) + 1) / 2
    labels = [classes[i] if i >= 0 else None for i in made.labels]
    return ImageSet(images.clip(0, 1), made.subjects, labels, made.positions, name)
