"""Whole volumes on one grid, whose axes run from left to right, from back to front, and upwards (RAS)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose, Transform
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.io import sources
from medsynth.data.io.sources import Source, header_or_none
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.foreground import BRAIN_HEIGHT_MM, Patient
from medsynth.data.preprocessing.lease import Lease
from medsynth.data.preprocessing.pipelines import REGIONS, checked_window, find, read_labels, volume_bounds
from medsynth.data.preprocessing.preparation import DTYPES, Preparation, Result, identity, reason, recipe
from medsynth.data.preprocessing.region import choose_region, first_images, measure_all
from medsynth.data.preprocessing.spacing import NAMES, STEP_MM
from medsynth.data.preprocessing.transforms import (
    SEGMENTATION,
    ReadVolume,
    ScaleToUnit,
    middle_of,
    of_each_class,
    resampled,
    window,
)
from medsynth.errors import MedsynthError, is_number, is_whole

ABOVE_MM = 8.0  # of air above a head, where the grid is high enough
MIDDLE = (0.5, 0.5, 0.5)
PLANES_SHOWN = "of each volume, the middle axial, coronal and sagittal plane, the patient's right on the left"
MARGIN = 12  # a grid's length over it is stored on each side too: a turned or shifted volume shows what is there
FINER = 2  # times as fine as the grid is what is stored, of images that have such voxels
LEAST_SIZE, SIZE_STEP = 16, 8  # voxels along an axis
LEAST_VOLUMES, FEW_VOLUMES = 8, 40

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumePreprocessing:
    """All that brings a user's volume to a grid; plain values, so that `model.pt` can carry it.

    Args:
        modality, window, region, bias_correction: as `Preprocessing` has them, but for pictures.
        size: voxels from left to right, from back to front and upwards.
        spacing_mm: between voxels along these axes; None: the smallest, the same along each, with which all patients
            fit, see `fit_grid`.
        finer: how many times as fine as the grid is what is stored along each axis; None: to be told from the images.
    """

    modality: str
    window: str | tuple[float, float] | None
    spacing_mm: tuple[float, float, float] | None
    size: tuple[int, int, int]
    region: str | None = None
    bias_correction: bool = False
    finer: int | None = None

    def __post_init__(self) -> None:
        if self.modality == "image":
            raise MedsynthError("modality is image, and volumes are needed: give mri or ct; for pictures, use vaegan")
        object.__setattr__(self, "window", checked_window(self.modality, self.window))
        object.__setattr__(self, "spacing_mm", _checked_spacing(self.spacing_mm))
        object.__setattr__(self, "size", _checked_size(self.size))
        if self.region is not None and self.region not in REGIONS:
            raise MedsynthError(f"region is {self.region!r}: choose one of {', '.join(REGIONS)}, or null")
        if self.bias_correction and self.modality != "mri":
            raise MedsynthError(f"bias_correction is for modality mri, and this is {self.modality}: set it to false")

    @property
    def margins(self) -> tuple[int, ...]:
        """Voxels of the grid that are stored beyond each end of an axis."""
        return tuple(math.ceil(length / MARGIN) for length in self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VolumePreprocessing:
        """The inverse of `to_dict`."""
        try:
            return cls(**values)
        except TypeError as error:
            raise MedsynthError(f"preprocessing {values} cannot be used: {error}") from error


def fitted_grid(
    entries: Sequence[dict[str, Any]], cache_dir: str | Path | None = None, num_workers: int = 0, **settings: Any
) -> VolumePreprocessing:
    """`VolumePreprocessing` of these settings, with region and spacing where they are null; the log says which.

    Args:
        entries: of a datalist.
        cache_dir: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that measure the volumes; 0: this one.

    Raises:
        MedsynthError: there are too few volumes, or most patients do not fit into the grid.
    """
    if len(entries) < LEAST_VOLUMES:
        raise MedsynthError(
            f"the datalist has {len(entries)} volumes, and {LEAST_VOLUMES} are needed, so that some can be held out: "
            "add some, or train vaegan on their slices"
        )
    if len(entries) < FEW_VOLUMES:
        log.warning("%d volumes are few: look for copies of them among what is generated (evaluation)", len(entries))
    preprocessing = choose_region(entries, VolumePreprocessing(**settings), cache_dir, num_workers)
    preprocessing = fit_grid(entries, preprocessing, cache_dir, num_workers)
    coarsest = [max(header.spacing_mm) for image in first_images(entries) if (header := header_or_none(image))]
    fine = bool(coarsest) and np.median(coarsest) <= max(preprocessing.spacing_mm) / FINER * (1 + 1e-3)
    return replace(preprocessing, finer=FINER if fine else 1)


def fit_grid(
    entries: Sequence[dict[str, Any]],
    preprocessing: VolumePreprocessing,
    cache_dir: str | Path | None,
    num_workers: int,
) -> VolumePreprocessing:
    """Choose the spacing with which all patients of a set fit, or check the one that is given.

    Of a head, 150 mm below its top must fit; more is taken where the grid is higher.
    """
    region = preprocessing.region
    found = measure_all(first_images(entries), preprocessing.modality, cache_dir, num_workers)
    if not found:
        return preprocessing if preprocessing.spacing_mm else replace(preprocessing, spacing_mm=(1.0, 1.0, 1.0))
    behind, across, upwards = np.array([facts[region] for facts in found.values()]).T
    needed = np.stack([across, behind, np.minimum(upwards, BRAIN_HEIGHT_MM) if region == "head" else upwards], axis=1)
    size = np.array(preprocessing.size)
    if preprocessing.spacing_mm is None:
        spacing = math.ceil((needed / size).max() / STEP_MM - 1e-3) * STEP_MM
        log.info("%s are up to %.0f x %.0f x %.0f mm large: voxels of %.4g mm", NAMES[region], *needed.max(0), spacing)
        return replace(preprocessing, spacing_mm=(spacing,) * 3)
    extent = size * preprocessing.spacing_mm
    cut = (needed > extent * 1.1).any(axis=1)
    if cut.mean() > 0.5:
        wanted = float((needed / size).max())
        raise MedsynthError(
            "the grid is {:.0f} x {:.0f} x {:.0f} mm, and {} are up to {:.0f} x {:.0f} x {:.0f} mm large: ".format(
                *extent, NAMES[region], *needed.max(axis=0)
            )
            + f"give --spacing_mm '[{wanted:.1f}, {wanted:.1f}, {wanted:.1f}]', null, or a larger size"
        )
    if cut.any():
        log.warning("%d of %d %s are larger than the grid and are cut", cut.sum(), len(cut), NAMES[region])
    return preprocessing


class ToGrid(Transform):
    """Bring a volume (1, rows, columns, slices) with the axes `foreground.AXES` to the grid, and some way beyond it.

    The grid lies about the middle of the patient's box; its upper end is a little above the top of a head. A label map
    comes along: linear for each class, then each voxel gets the class of the largest share.
    """

    def __init__(self, preprocessing: VolumePreprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume, finer = data[Keys.IMAGE], self.preprocessing.finer or 1
        right, ahead, up = (mm / finer for mm in self.preprocessing.spacing_mm)
        old, new = np.array([float(mm) for mm in volume.pixdim]), np.array([ahead, right, up])
        width, depth, height = (finer * length for length in self.preprocessing.size)
        edges = [finer * margin for margin in self.preprocessing.margins]
        sides = np.array([depth + 2 * edges[1], width + 2 * edges[0], height + 2 * edges[2]])
        starts = np.array(_starts(data["patient"], new, (depth, width, height))) - [edges[1], edges[0], edges[2]]

        def cut(image: torch.Tensor, air: float) -> torch.Tensor:
            return window(image[None], starts, sides, air)[0].flip(0, 1).permute(1, 0, 2)[None]

        on_grid = {Keys.IMAGE: cut(at_spacing(convert_to_tensor(volume, track_meta=False)[0], old, new), data["air"])}
        if SEGMENTATION in data:
            indices = convert_to_tensor(data[SEGMENTATION], track_meta=False)[0]
            on_grid[SEGMENTATION] = cut(of_each_class(indices, lambda share: at_spacing(share, old, new)), 0)
        to_ras = nib.affines.from_matvec([[0, -1, 0], [-1, 0, 0], [0, 0, 1]], [sides[0] - 1, sides[1] - 1, 0])
        to_old = nib.affines.from_matvec(np.diag(new / old), starts * new / old + (new / old - 1) / 2)
        affine = volume.affine.numpy() @ to_old @ to_ras
        facts = {"spacing_mm": self.preprocessing.spacing_mm, "affine": affine, "positions": np.array([np.nan])}
        return data | on_grid | facts


def at_spacing(volume: torch.Tensor, old: Sequence[float], new: Sequence[float]) -> torch.Tensor:
    """A volume (X, Y, Z) from one spacing to another along its axes, see `resampled`."""
    volume = resampled(volume.permute(2, 0, 1), old[:2], new[:2]).permute(1, 0, 2)
    return resampled(volume, (old[2], new[1]), (new[2], new[1])).permute(0, 2, 1)


def _starts(patient: Patient, spacing_mm: np.ndarray, sides: Sequence[int]) -> list[int]:
    """Where a grid of these sides begins along `foreground.AXES`, in its own voxels."""
    begins, ends = (patient.box * np.array(patient.spacing_mm)[:, None] / spacing_mm[:, None]).T
    starts = [round((begin + end - side) / 2) for begin, end, side in zip(begins, ends, sides, strict=True)]
    if patient.region == "head":
        spare = max(0.0, sides[2] * spacing_mm[2] - BRAIN_HEIGHT_MM) / 2
        starts[2] = round(ends[2] + min(ABOVE_MM, spare) / spacing_mm[2]) - sides[2]
    return starts


def plain(stored: torch.Tensor, size: Sequence[int], finer: int) -> torch.Tensor:
    """Stored volumes (N, 1, ...) -> (N, 1, *size): the means of their voxels, margins left out."""
    edges = [(length - finer * side) // 2 for length, side in zip(stored.shape[2:], size, strict=True)]
    inside = [slice(edge, edge + finer * side) for edge, side in zip(edges, size, strict=True)]
    return F.avg_pool3d(stored[:, :, inside[0], inside[1], inside[2]], finer)


def plain_segmentation(stored: torch.Tensor, size: Sequence[int], finer: int) -> torch.Tensor:
    """Stored label maps (N, 1, ...), indices of the classes -> (N, 1, *size): the class of the largest share."""
    return of_each_class(stored, lambda share: plain(share, size, finer))


def three_planes(volumes: torch.Tensor, at: Sequence[float] = MIDDLE) -> torch.Tensor:
    """Axial, coronal and sagittal plane of (N, 1, X, Y, Z), side by side, upright: (N, 1, H, W).

    Args:
        at: where the planes cross, shares of the axes from left, back and below.
    """
    x, y, z = (min(length - 1, int(share * length)) for length, share in zip(volumes.shape[2:], at, strict=True))
    # the patient's right is on the left, as radiologists see it, and a profile looks to the left
    planes = [volumes[..., z].flip(2, 3), volumes[:, :, :, y].flip(2, 3), volumes[:, :, x].flip(2, 3)]
    upright = [plane.transpose(2, 3) for plane in planes]
    height = max(plane.shape[2] for plane in upright)
    return torch.cat([F.pad(plane, (0, 0, 0, height - plane.shape[2]), value=-1) for plane in upright], dim=3)


def grid_transforms(
    preprocessing: VolumePreprocessing, segmentation_classes: Mapping[int, str] | None = None
) -> Compose:
    """A `Source` in; image (1, X, Y, Z) in [-1, 1], stored finer and with margins, `bounds`, `affine`, spacing out.

    With classes, its label map comes with the image, as `pipelines.volume_transforms` has it.
    """
    located = [ReadVolume(), *find(preprocessing), *read_labels(segmentation_classes)]
    return Compose([*located, volume_bounds(preprocessing), ScaleToUnit(), ToGrid(preprocessing)])


def prepare_volumes(
    images: Sequence[Source],
    preprocessing: VolumePreprocessing,
    store: Cache,
    num_workers: int,
    segmentation_classes: Mapping[int, str] | None = None,
) -> tuple[list[dict[str, Any]], Lease]:
    """The records of volumes, one each, in order; and a lease on their files in the cache.

    Args:
        segmentation_classes: names by code, of the label maps that come with the images; None: none do.
    """
    pipeline = grid_transforms(preprocessing, segmentation_classes)
    one = partial(prepare_volume, preprocessing=preprocessing, pipeline=pipeline)
    how = ["grid", recipe(preprocessing), *([list(segmentation_classes)] if segmentation_classes else [])]
    return Preparation(images, 1, identity, how, one, store).all(num_workers, "preparing volumes")


def prepare_volume(source: Source, preprocessing: VolumePreprocessing, pipeline: Compose) -> Result:
    """A volume (1, X, Y, Z) and the facts about it, or what is wrong with it.

    With a label map, (2, X, Y, Z), and `middle`, the voxel of the grid in the middle of what it shows.
    """
    try:
        if sources.is_picture(source.path):
            raise MedsynthError("is a picture, and volumes are needed: for pictures, use vaegan with --modality image")
        header = sources.read_header(source)
        if min(header.shape) < 2:
            raise MedsynthError("is a single slice, and volumes are needed: for slices, use vaegan")
        data = pipeline({"source": source})
    except Exception as error:
        return None, {"error": reason(error)}
    facts = {"positions": [None], "bounds": list(data["bounds"]), "spacing_mm": list(data["spacing_mm"])}
    facts |= {"affine": data["affine"].tolist()} | ({"notes": data["notes"]} if data.get("notes") else {})
    image = data[Keys.IMAGE].to(DTYPES[preprocessing.modality]).numpy()
    if SEGMENTATION not in data:
        return image, facts
    indices, finer = data[SEGMENTATION].numpy(), preprocessing.finer or 1
    if middle := middle_of(indices):
        middle = [(at + 0.5) / finer - 0.5 - edge for at, edge in zip(middle, preprocessing.margins, strict=True)]
    return np.concatenate([image, indices.astype(image.dtype)]), facts | {"middle": middle}


def _checked_spacing(spacing: Any) -> tuple[float, float, float] | None:
    if spacing is None:
        return None
    if isinstance(spacing, (list, tuple)) and len(spacing) == 3 and all(is_number(mm) and mm > 0 for mm in spacing):
        return tuple(float(mm) for mm in spacing)
    raise MedsynthError(f"spacing_mm is {spacing!r}: give null or three sizes in mm, such as '[2, 2, 2]'")


def _checked_size(size: Any) -> tuple[int, int, int]:
    if (
        isinstance(size, (list, tuple))
        and len(size) == 3
        and all(is_whole(length) and length >= LEAST_SIZE and length % SIZE_STEP == 0 for length in size)
    ):
        return tuple(size)
    raise MedsynthError(
        f"size is {size!r}: give three multiples of {SIZE_STEP} from {LEAST_SIZE} on, such as '[96, 112, 96]': voxels "
        "from left to right, from back to front and upwards"
    )
