"""The named pipelines, from a file to normalized slices: mri, ct, image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.transforms import Compose, Orientationd, Transform
from monai.utils.enums import CommonKeys as Keys
from PIL import Image

from medsynth.data.preprocessing.bias import CorrectBias
from medsynth.data.preprocessing.foreground import AXES
from medsynth.data.preprocessing.transforms import (
    SEGMENTATION,
    BitDepthBounds,
    CentreOnPatient,
    CheckFinite,
    ChooseSlices,
    CutPicture,
    FindPatient,
    FitPicture,
    FixedBounds,
    MendHounsfield,
    PercentileBounds,
    ReadPicture,
    ReadSegmentation,
    ReadVolume,
    ResampleInPlane,
    ScaleToUnit,
    SetAir,
)
from medsynth.errors import MedsynthError, check_bool, check_whole, is_number

KEYS = (Keys.IMAGE, SEGMENTATION)
MODALITIES = ("mri", "ct", "image")
REGIONS = ("head", "body")
PLANES = {"axial": "PLS", "coronal": "ILA", "sagittal": "IPR"}
"""Where rows, columns and slices point, so that each slice is upright as a radiologist sees it: axial and coronal ones
from the patient's front or feet, with the right on the left; sagittal ones with the face to the left."""
CT_WINDOWS_HU = {
    "full": (-1000.0, 1000.0),
    "brain": (0.0, 80.0),
    "subdural": (-50.0, 150.0),
    "soft": (-160.0, 240.0),
    "bone": (-800.0, 2000.0),
}
"""Named windows: air to dense bone, then level and width as radiologists set them."""


MOST_COLOUR = 32  # of 255, between the channels of a pixel that counts as grey; JPEG makes some
GREY_PERCENT = 99.9  # of the pixels that must be grey


@dataclass(frozen=True)
class Preprocessing:
    """All that turns a user's image into slices; plain values, so that `model.pt` can carry it.

    Args:
        modality: `mri`, `ct` or `image`; picks the pipeline.
        window: None (the modality's own), the name of a CT window, or (low, high): these bounds for every image.
        spacing_mm: between rows and columns; None: as it is.
        image_size: rows and columns of a slice.
        min_foreground: part of a slice that the patient must cover.
        plane: of the slices, `axial`, `coronal` or `sagittal`.
        positions: of the first and the last slice taken, from 0 to 1. Axial: 150 mm below the top of the head to
            its top, or the lowest to the highest slice of a body; coronal: back to front; sagittal: left to right.
        neighbours: slices on each side that are added as channels; at the ends of a volume, its last slice again.
        bias_correction: for `mri`, correct the bias field of each volume first (N4; some seconds a volume).
        keep_pixels: crop what does not fit into the slice, instead of a coarser spacing for the whole set.
        grey: turn coloured pictures to grey, which are refused otherwise.
        region: `head`, of which 150 mm below the top count, or `body`, all that was imaged; None: to be told from the
            images, see `region.choose_region`.
    """

    modality: str
    window: str | tuple[float, float] | None
    spacing_mm: tuple[float, float] | None
    image_size: int
    min_foreground: float = 0.05
    plane: str = "axial"
    positions: tuple[float, float] = (0.0, 1.0)
    neighbours: int = 0
    bias_correction: bool = False
    keep_pixels: bool = False
    grey: bool = False
    region: str | None = "head"

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", checked_window(self.modality, self.window))
        object.__setattr__(self, "spacing_mm", _checked_spacing(self.spacing_mm))
        check_whole("image_size", self.image_size, 1, "a whole number of pixels, such as 64")
        if not 0 <= self.min_foreground < 1:
            raise MedsynthError(f"min_foreground is {self.min_foreground!r}: give a share of the slice, such as 0.05")
        if self.region is not None and self.region not in REGIONS:
            raise MedsynthError(f"region is {self.region!r}: choose one of {', '.join(REGIONS)}, or null")
        if self.plane not in PLANES:
            raise MedsynthError(f"plane is {self.plane!r}: choose one of {', '.join(PLANES)}")
        object.__setattr__(self, "positions", _checked_positions(self.positions))
        if self.neighbours not in (0, 1, 2) or isinstance(self.neighbours, bool):
            raise MedsynthError(f"neighbours is {self.neighbours!r}: give 0, 1 or 2 slices on each side")
        if self.bias_correction and self.modality != "mri":
            raise MedsynthError(f"bias_correction is for modality mri, and this is {self.modality}: set it to false")
        check_bool("grey", self.grey, "true, to turn coloured pictures to grey, or false")

    @property
    def channels(self) -> int:
        """Of a slice with its neighbours."""
        return 1 + 2 * self.neighbours

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        try:
            return cls(**values)
        except TypeError as error:
            raise MedsynthError(f"preprocessing {values} cannot be used: {error}") from error


def volume_transforms(preprocessing: Preprocessing, segmentation_classes: Mapping[int, str] | None = None) -> Compose:
    """The modality's pipeline: a `Source` in; image (N, H, W), positions, bounds and spacing_mm out.

    With classes, names by code, its label map comes with the image, `SEGMENTATION` (N, H, W), indices of the classes.
    """
    pipelines = {"mri": mri, "ct": ct, "image": image}
    return pipelines[preprocessing.modality](preprocessing, segmentation_classes)


def mri(preprocessing: Preprocessing, segmentation_classes: Mapping[int, str] | None = None) -> Compose:
    """Percentiles of the patient, or the given bounds, to [-1, 1]; air stays -1."""
    return _volume(preprocessing, segmentation_classes)


def ct(preprocessing: Preprocessing, segmentation_classes: Mapping[int, str] | None = None) -> Compose:
    """A window in Hounsfield units to [-1, 1]."""
    return _volume(preprocessing, segmentation_classes)


def image(preprocessing: Preprocessing, segmentation_classes: Mapping[int, str] | None = None) -> Compose:
    """A 2D image's bit depth, or the given bounds, to [-1, 1]; rows and columns as they are."""
    fit = (CutPicture if preprocessing.keep_pixels else FitPicture)(preprocessing.image_size)
    return Compose([*read_picture(preprocessing), *read_labels(segmentation_classes), ScaleToUnit(), fit])


def read_picture(preprocessing: Preprocessing) -> list[Transform]:
    """The steps of a picture's pipeline that read it and set its bounds."""
    bounds = BitDepthBounds() if preprocessing.window is None else FixedBounds(preprocessing.window)
    converter = as_grey if preprocessing.grey else grey_only
    return [ReadPicture(converter), CheckFinite(), bounds]


def as_grey(picture: Image.Image) -> Image.Image:
    """Bring colours and palettes to 8 bits of grey; leave grey as it is."""
    return picture if picture.mode in ("L", "F") or picture.mode.startswith("I") else picture.convert("L")


def grey_only(picture: Image.Image) -> Image.Image:
    """The same, for pictures that show grey alone, however they are stored.

    Raises:
        MedsynthError: more than one pixel in a thousand has a colour.
    """
    if picture.mode not in ("1", "L", "LA", "F") and not picture.mode.startswith("I"):
        spread = np.ptp(np.asarray(picture.convert("RGB")), axis=-1)
        if np.percentile(spread, GREY_PERCENT) > MOST_COLOUR:
            raise MedsynthError("shows colours: give --grey true to turn them to grey, or leave it out")
    return as_grey(picture)


def locate(preprocessing: Preprocessing) -> list[Transform]:
    """The steps of a volume's pipeline that read it and find the patient."""
    return [ReadVolume(), *find(preprocessing)]


def find(preprocessing: Preprocessing) -> list[Transform]:
    """The steps of a volume's pipeline that turn it upright and find the patient, once it is read."""
    upright = Orientationd(Keys.IMAGE, axcodes=AXES, labels=None)
    even = [CorrectBias()] if preprocessing.bias_correction else []
    air = [MendHounsfield(), SetAir()] if preprocessing.modality == "ct" else []
    return [upright, CheckFinite(), *even, *air, FindPatient(preprocessing.modality, preprocessing.region)]


def volume_bounds(preprocessing: Preprocessing) -> Transform:
    """The step of a volume's pipeline that sets which intensities become -1 and 1."""
    window = preprocessing.window
    if window is None and preprocessing.modality == "mri":
        return PercentileBounds()
    return FixedBounds(window if isinstance(window, tuple) else CT_WINDOWS_HU[window or "full"])


def take_slices(preprocessing: Preprocessing) -> list[Transform]:
    """The steps of a volume's pipeline from the patient and the bounds to slices."""
    axes, spacing = PLANES[preprocessing.plane], preprocessing.spacing_mm
    choice = (preprocessing.positions, preprocessing.min_foreground, preprocessing.neighbours)
    return [
        *([] if axes == AXES else [Orientationd(KEYS, axcodes=axes, labels=None, allow_missing_keys=True)]),
        ChooseSlices(axes, *choice),
        *([] if spacing is None else [ResampleInPlane(spacing)]),
        ScaleToUnit(),
        CentreOnPatient(axes, preprocessing.image_size),
    ]


def _volume(preprocessing: Preprocessing, classes: Mapping[int, str] | None) -> Compose:
    located = [*locate(preprocessing), *read_labels(classes)]
    return Compose([*located, volume_bounds(preprocessing), *take_slices(preprocessing)])


def read_labels(classes: Mapping[int, str] | None) -> list[Transform]:
    """The step of a pipeline that reads the label map of the image that was read; none without classes."""
    return [ReadSegmentation(classes)] if classes else []


def checked_window(modality: str, window: Any) -> str | tuple[float, float] | None:
    """A modality's window, its numbers as a tuple; or an error that says what it may be."""
    if modality not in MODALITIES:
        raise MedsynthError(f"modality is {modality!r}: choose one of {', '.join(MODALITIES)}")
    if window is None or (modality == "ct" and isinstance(window, str) and window in CT_WINDOWS_HU):
        return window
    if isinstance(window, (list, tuple)) and len(window) == 2 and all(map(is_number, window)) and window[0] < window[1]:
        return float(window[0]), float(window[1])
    names = f", the name of a window ({', '.join(CT_WINDOWS_HU)})" if modality == "ct" else ""
    raise MedsynthError(f"window is {window!r}: give null{names} or [low, high] for modality {modality}")


def _checked_spacing(spacing: Any) -> tuple[float, float] | None:
    if spacing is None:
        return None
    if (
        isinstance(spacing, (list, tuple))
        and len(spacing) == 2
        and all(is_number(size) and size > 0 for size in spacing)
    ):
        return float(spacing[0]), float(spacing[1])
    raise MedsynthError(f"spacing_mm is {spacing!r}: give null or two sizes in mm, [between rows, between columns]")


def _checked_positions(positions: Any) -> tuple[float, float]:
    if (
        isinstance(positions, (list, tuple))
        and len(positions) == 2
        and all(map(is_number, positions))
        and 0 <= positions[0] < positions[1] <= 1
    ):
        return float(positions[0]), float(positions[1])
    raise MedsynthError(f"positions is {positions!r}: give [low, high] from 0 to 1, such as [0.3, 0.8]")
