"""Transforms of the pipelines: each takes a dictionary and returns it with more entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import ResizeWithPadOrCrop, SpatialPad, Transform
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from monai.utils.enums import MetaKeys, SpaceKeys
from PIL import Image
from scipy import ndimage

from medsynth.data.io.masks import read_mask
from medsynth.data.io.segmentations import as_indices, read_picture_segmentation, read_segmentation
from medsynth.data.io.sources import Source, is_picture, read_header, read_picture, read_volume
from medsynth.data.preprocessing.foreground import Patient, find_patient
from medsynth.data.preprocessing.hounsfield import AIR_HU, NO_AIR_HU, mended
from medsynth.errors import MedsynthError

MRI_PERCENTILES = (0.5, 99.5)
SAME_SPACING = 1e-3  # relative difference that moves no pixel by half of one
SEGMENTATION = "segmentation"  # key of the label map: indices of the classes, moved, cut and resampled as the image is


class ReadVolume(Transform):
    """Read the volume that `source` names."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {Keys.IMAGE: read_volume(data["source"])}


class ReadPicture(Transform):
    """Read a picture or a NIfTI slice as (1, rows, columns), neither turned nor mirrored.

    Args:
        converter: brings what a picture shows to grey.
    """

    def __init__(self, converter: Callable[[Image.Image], Image.Image]) -> None:
        self.converter = converter

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        source = data["source"]
        if source.path.lower().endswith((".nii", ".nii.gz")) and min(read_header(source).shape) == 1:
            volume = convert_to_tensor(read_volume(source), track_meta=False)
            return data | {Keys.IMAGE: volume.select(max(axis for axis in (1, 2, 3) if volume.shape[axis] == 1), 0)}
        if not is_picture(source.path):
            raise MedsynthError(
                "is neither a picture nor a NIfTI file of one slice: for volumes, train with --modality mri or ct"
            )
        array = np.asarray(self.converter(read_picture(source.path)), np.float32)
        return data | {Keys.IMAGE: torch.from_numpy(array)[None]}


class ReadSegmentation(Transform):
    """Read the label map of the image that was read, a volume or a picture, as indices of the classes (0: background).

    Args:
        classes: names by code, in the order of their indices.
    """

    def __init__(self, classes: Mapping[int, str]) -> None:
        self.classes = classes

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image, path = data[Keys.IMAGE], data["source"].segmentation
        try:
            if isinstance(image, MetaTensor):
                codes, affine = read_segmentation(path, image.shape[1:], image.affine.numpy())
                meta = {MetaKeys.SPACE: SpaceKeys.RAS}
                indices = MetaTensor(torch.from_numpy(as_indices(codes, self.classes))[None], affine, meta)
            else:
                codes = read_picture_segmentation(path, image.shape[1:])
                indices = torch.from_numpy(as_indices(codes, self.classes))[None]
        except MedsynthError as error:
            raise MedsynthError(f"has a segmentation that cannot be used: {path} {error}") from error
        return data | {SEGMENTATION: indices}


class CheckFinite(Transform):
    """Refuse NaN and infinite values."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image = convert_to_tensor(data[Keys.IMAGE], track_meta=False)
        if not torch.isfinite(image.sum()) and (bad := int((~torch.isfinite(image)).sum())):
            raise MedsynthError(f"holds {bad} voxels of {image.numel()} that are NaN or infinite: replace them first")
        return data


class MendHounsfield(Transform):
    """Bring CT to Hounsfield units; `notes` say what was done, see `hounsfield.mended`, or that it may be no CT."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = data[Keys.IMAGE]
        stored = volume[0].numpy()
        values, note = mended(stored)
        if values is not stored:
            volume[0] = torch.from_numpy(values)
        if not note and values.min() > NO_AIR_HU:
            note = "no air is in it, which has -1000 HU in CT: if it is MRI, take --modality mri"
        return data | {"notes": [*data.get("notes", []), note]} if note else data


class SetAir(Transform):
    """Make what surrounds the patient air in CT whose background has another value, such as the 0 of some templates.

    It is what is connected with a corner of the volume (1, rows, columns, slices) and has its value.
    """

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = data[Keys.IMAGE].as_tensor()[0]
        corners = volume[:: volume.shape[0] - 1 or 1, :: volume.shape[1] - 1 or 1, :: volume.shape[2] - 1 or 1]
        value = float(corners.median())
        if value > NO_AIR_HU:
            labels, _ = ndimage.label((volume == value).numpy())
            outside = np.unique(
                np.concatenate([side.ravel() for axis in range(3) for side in labels.take([0, -1], axis)])
            )
            volume[torch.from_numpy(np.isin(labels, outside[outside > 0]))] = AIR_HU
        return data


class FindPatient(Transform):
    """Find the patient in a volume (1, rows, columns, slices) with the axes `foreground.AXES`, or take it from a mask.

    `inside` is true in the patient, on the grid of the volume.

    Args:
        modality, region: as `find_patient` takes them.
    """

    def __init__(self, modality: str, region: str) -> None:
        self.modality, self.region = modality, region

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = data[Keys.IMAGE]
        spacing = tuple(float(size) for size in volume.pixdim)
        source, given, note = data.get("source"), None, None
        if source is not None and source.mask:
            try:
                given, note = read_mask(source.mask, volume.shape[1:], volume.affine.numpy())
            except MedsynthError as error:
                raise MedsynthError(f"has a mask that cannot be used: {source.mask} {error}") from error
            note = note and f"its mask {source.mask} {note}"
        patient = find_patient(volume[0].numpy(), spacing, self.modality, self.region, given)
        inside = patient.whole_mask() if given is None else given
        notes = {"notes": [*data.get("notes", []), note]} if note else {}
        return data | {"patient": patient, "air": patient.air, "inside": inside} | notes


class PercentileBounds(Transform):
    """Take the intensity bounds from the patient's own values."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        low, high = (float(bound) for bound in np.percentile(data["patient"].values, MRI_PERCENTILES))
        if low >= high:
            raise MedsynthError(
                f"has a {data['patient'].region} of the value {low:g} only: is it a mask instead of a scan?"
            )
        return data | {"bounds": (low, high)}


class FixedBounds(Transform):
    """The same intensity bounds for every image."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.bounds = bounds

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {"bounds": self.bounds}


class BitDepthBounds(Transform):
    """The intensity bounds of a picture's bit depth: 0 to 255 for 8 bits, 0 to 65,535 for 16."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if (bits := bits_of(data["source"])) is None:
            raise MedsynthError(
                "holds signed or real values, and only 8 to 16 bits of grey have a range of their own: state black and "
                "white with --window '[low, high]'"
            )
        return data | {"bounds": (0.0, 2.0**bits - 1)}


class ChooseSlices(Transform):
    """Choose slices by their position and by how much of the patient they show; store these and their neighbours.

    Turns the volume (1, rows, columns, slices) with the given axes into slices (N, rows, columns). `slices` are the
    indices of the chosen ones in the volume, `positions` theirs, `planes` the indices of all that are stored;
    `spacing_mm` and `affine` are those of the volume.

    Args:
        axes: where rows, columns and slices of the volume point.
        positions: of the first and the last slice that may be chosen.
        min_foreground: part of the slice that the patient must cover, see `Patient.shares`.
        neighbours: slices on each side of a chosen one that are stored, where the volume has them.
    """

    def __init__(self, axes: str, positions: tuple[float, float], min_foreground: float, neighbours: int) -> None:
        self.axes, self.positions, self.neighbours = axes, positions, neighbours
        self.min_foreground = min_foreground

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume, patient, (low, high) = data[Keys.IMAGE], data["patient"], self.positions
        positions, shares = patient.positions(self.axes[2]), patient.shares(self.axes[2])
        chosen = np.flatnonzero((positions >= low) & (positions <= high) & (shares >= self.min_foreground))
        if not chosen.size:
            raise MedsynthError(
                f"has no slice between the positions {low:g} and {high:g} with {self.min_foreground:.0%} of its area "
                f"in the {patient.region}"
            )
        stored = np.unique(with_neighbours(chosen, self.neighbours, len(positions)))
        facts = {"spacing_mm": tuple(float(size) for size in volume.pixdim), "affine": volume.affine.numpy()}
        facts |= {"slices": chosen, "planes": stored, "positions": positions[chosen]}
        for key in (Keys.IMAGE, *({SEGMENTATION} & data.keys())):
            facts[key] = convert_to_tensor(data[key], track_meta=False)[0].permute(2, 0, 1)[stored.tolist()]
        return data | facts


class ResampleInPlane(Transform):
    """Bring slices (N, rows, columns) to a spacing, averaging over the area where they get coarser."""

    def __init__(self, spacing_mm: tuple[float, float]) -> None:
        self.spacing_mm = spacing_mm

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        *old, between = data["spacing_mm"]
        new = self.spacing_mm
        if np.allclose(old, new, rtol=SAME_SPACING, atol=0):
            return data
        moved = {Keys.IMAGE: resampled(data[Keys.IMAGE], old, new)}
        if SEGMENTATION in data:
            moved[SEGMENTATION] = of_each_class(data[SEGMENTATION], lambda share: resampled(share, old, new))
        steps = (new[0] / old[0], new[1] / old[1], 1.0)
        affine = data["affine"] @ nib.affines.from_matvec(np.diag(steps), [(step - 1) / 2 for step in steps])
        return data | moved | {"spacing_mm": (*new, between), "affine": affine}


def of_each_class(indices: torch.Tensor, move: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Move where each class is, as shares from 0 to 1 (float32); each pixel gets the class of the largest share.

    One class after the other: a map of many classes would not fit into memory in all of their channels.
    """
    largest, found = None, None
    for index in indices.unique().tolist():
        share = move((indices == index).float())
        if largest is None:
            largest, found = share, torch.full_like(share, index, dtype=indices.dtype)
            continue
        found = torch.where(share > largest, index, found)
        largest = torch.maximum(largest, share)
    return found


def resampled(slices: torch.Tensor, old: Sequence[float], new: Sequence[float]) -> torch.Tensor:
    """(N, rows, columns) from one spacing to another, which begins at the same edge and covers at least as much.

    Linear between pixels where they get finer, averaged over the new pixel's surroundings where they get coarser.
    """
    if np.allclose(old, new, rtol=SAME_SPACING, atol=0):
        return slices
    pad, scale = [], []
    for size, a, b in zip(slices.shape[1:], old, new, strict=True):
        count = size * a / b
        whole = abs(count - round(count)) < 1e-3  # but for the rounding of spacings
        # the output is cut to whole pixels: pad by one, so that the last rows and columns are in it
        pad.append(0 if whole else int(np.ceil(b / a)))
        scale.append((round(count) / size if whole else a / b) * (1 + 1e-9))
    padded = F.pad(slices[None], (0, pad[1], 0, pad[0]), mode="replicate")
    return F.interpolate(padded, scale_factor=tuple(scale), mode="bilinear", antialias=True)[0]


class ScaleToUnit(Transform):
    """Map the bounds onto [-1, 1] and clip what lies outside."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        low, high = data["bounds"]
        image = data[Keys.IMAGE] - low
        scaled = {Keys.IMAGE: image.mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)}
        if "air" in data:
            scaled["air"] = float(np.clip((data["air"] - low) * (2 / (high - low)) - 1, -1, 1))
        return data | scaled


class CentreOnPatient(Transform):
    """Cut slices (N, rows, columns) to (N, size, size) about the middle of the patient's box, or pad them with air."""

    def __init__(self, axes: str, image_size: int) -> None:
        self.axes, self.image_size = axes, image_size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        starts = first_pixels(data["patient"], self.axes, data["spacing_mm"], self.image_size)
        affine = data["affine"] @ nib.affines.from_matvec(np.eye(3), [*starts, 0])
        sides = (self.image_size, self.image_size)
        cut = {Keys.IMAGE: window(data[Keys.IMAGE], starts, sides, data["air"])}
        if SEGMENTATION in data:
            cut[SEGMENTATION] = window(data[SEGMENTATION], starts, sides, 0)
        return data | cut | {"affine": affine}


def first_pixels(patient: Patient, axes: str, spacing_mm: Sequence[float], image_size: int) -> list[int]:
    """Row and column at which a square slice begins whose middle is that of the patient's box.

    Args:
        axes: where rows, columns and slices point.
        spacing_mm: between the rows and the columns of that slice, which begin where the volume does.
    """
    starts = []
    for direction, spacing in zip(axes[:2], spacing_mm, strict=False):
        centre_mm = sum(patient.span(direction)) / 2 * patient.pixel_mm(direction)
        starts.append(round(centre_mm / spacing - image_size / 2))
    return starts


class FitPicture(Transform):
    """Leave a picture (1, rows, columns) of the right size alone; scale any other to fit, on black."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image, size = data[Keys.IMAGE], self.image_size
        if tuple(image.shape[1:]) != (size, size):
            shape = fitted(image.shape[1:], size)
            image = self._scaled(image, shape)
            image = convert_to_tensor(SpatialPad((size, size), value=-1)(image), track_meta=False)
            if SEGMENTATION in data:
                indices = of_each_class(data[SEGMENTATION], lambda share: self._scaled(share, shape))
                data = data | {SEGMENTATION: convert_to_tensor(SpatialPad((size, size))(indices), track_meta=False)}
        return data | {Keys.IMAGE: image, "positions": np.array([np.nan]), "spacing_mm": (1.0, 1.0, 1.0)}

    @staticmethod
    def _scaled(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        return F.interpolate(image[None], size=shape, mode="bilinear", antialias=True)[0]


def fitted(shape: Sequence[int], image_size: int) -> list[int]:
    """Rows and columns that a picture has once it is scaled to fit into a square."""
    scale = image_size / max(shape)
    return [max(1, round(side * scale)) for side in shape]


class CutPicture(Transform):
    """Cut a picture (1, rows, columns) to (1, size, size) about its middle, or pad it with black."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        sides = (self.image_size, self.image_size)
        image = convert_to_tensor(ResizeWithPadOrCrop(sides, value=-1)(data[Keys.IMAGE]), track_meta=False)
        if SEGMENTATION in data:
            indices = ResizeWithPadOrCrop(sides)(data[SEGMENTATION])
            data = data | {SEGMENTATION: convert_to_tensor(indices, track_meta=False)}
        return data | {Keys.IMAGE: image, "positions": np.array([np.nan]), "spacing_mm": (1.0, 1.0, 1.0)}


def with_neighbours(slices: np.ndarray, neighbours: int, count: int) -> np.ndarray:
    """(N, 1 + 2 * neighbours) indices of slices and those around them; beyond a volume's `count`, its last again."""
    return np.clip(slices[:, None] + np.arange(-neighbours, neighbours + 1), 0, count - 1)


def bits_of(source: Source) -> int | None:
    """Of a picture's or a NIfTI file's values; None if they are signed, real or scaled, or cannot be read."""
    try:
        if is_picture(source.path):
            return read_header(source).bits
        values = nib.load(source.path).dataobj
    except (MedsynthError, OSError, nib.filebasedimages.ImageFileError):
        return None
    is_plain = (values.slope, values.inter) == (1, 0) and values.dtype in (np.uint8, np.uint16)
    return 8 * values.dtype.itemsize if is_plain else None


def middle_of(indices: np.ndarray) -> list[float] | None:
    """Row and column in the middle of what slices (N, rows, columns) of a label map show, or x, y and z of volumes
    (N, X, Y, Z); None if that is nothing."""
    axes = range(indices.ndim)
    ends = [np.flatnonzero(indices.any(axis=tuple(other for other in axes if other != axis))) for axis in axes[1:]]
    return [float(found[0] + found[-1]) / 2 for found in ends] if len(ends[0]) else None


def window(slices: torch.Tensor, starts: Sequence[int], sides: Sequence[int], air: float) -> torch.Tensor:
    """Cut (N, *sides) out of slices (N, rows, columns) or volumes, from these indices on; what lies beyond is air."""
    there, here = [], []
    for start, side, count in zip(starts, sides, slices.shape[1:], strict=True):
        begin, end = min(max(0, start), count), max(0, min(count, start + side))
        there.append(slice(begin, end))
        here.append(slice(begin - start, end - start))
    cut = slices.new_full((len(slices), *sides), air)
    cut[(slice(None), *here)] = slices[(slice(None), *there)]
    return cut
