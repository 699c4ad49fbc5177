"""The named pipelines, from a file to normalized slices: mri, ct, image."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from monai.data import ImageReader, NibabelReader, PILReader
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd, Transform
from monai.utils.enums import CommonKeys as Keys
from PIL import Image

from medsynth.data.foreground import ct_threshold, mri_threshold
from medsynth.data.sources import AXES, Header, read_header
from medsynth.data.transforms import (
    BitDepthBounds,
    CheckFinite,
    FindHead,
    FitPicture,
    FixedBounds,
    PercentileBounds,
    ReadImage,
    ResampleInPlane,
    ScaleToUnit,
    TakeSlices,
)
from medsynth.errors import MedsynthError

MODALITIES = ("mri", "ct", "image")
CT_WINDOWS_HU = {
    "full": (-1000.0, 1000.0),
    "brain": (0.0, 80.0),
    "subdural": (-50.0, 150.0),
    "soft": (-160.0, 240.0),
    "bone": (-800.0, 2000.0),
}
"""Named windows: air to dense bone, then level and width as radiologists set them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessing:
    """All that turns a user's image into slices; plain values, so that `model.pt` can carry it.

    Args:
        modality: `mri`, `ct` or `image`; picks the pipeline.
        window: None (the modality's own), the name of a CT window, or (low, high): these bounds for every image.
        spacing_mm: between rows and columns; None: as it is.
        image_size: rows and columns of a slice.
        min_foreground: part of a slice that the head must cover.
    """

    modality: str
    window: str | tuple[float, float] | None
    spacing_mm: tuple[float, float] | None
    image_size: int
    min_foreground: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", _checked_window(self.modality, self.window))
        object.__setattr__(self, "spacing_mm", _checked_spacing(self.spacing_mm))
        if not isinstance(self.image_size, int) or isinstance(self.image_size, bool) or self.image_size < 1:
            raise MedsynthError(f"image_size is {self.image_size!r}: give a whole number of pixels, such as 64")
        if not 0 <= self.min_foreground < 1:
            raise MedsynthError(f"min_foreground is {self.min_foreground!r}: give a share of the slice, such as 0.05")

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


def volume_transforms(preprocessing: Preprocessing) -> Compose:
    """The modality's pipeline: {"path": path} in; image (N, H, W), positions, bounds and spacing_mm out."""
    return {"mri": mri, "ct": ct, "image": image}[preprocessing.modality](preprocessing)


def mri(preprocessing: Preprocessing) -> Compose:
    """Percentiles of the head, or the given bounds, to [-1, 1]; air stays -1."""
    bounds = PercentileBounds() if preprocessing.window is None else FixedBounds(preprocessing.window)
    return _volume(preprocessing, mri_threshold, bounds)


def ct(preprocessing: Preprocessing) -> Compose:
    """A window in Hounsfield units to [-1, 1]."""
    window = preprocessing.window or "full"
    return _volume(
        preprocessing, ct_threshold, FixedBounds(CT_WINDOWS_HU[window] if isinstance(window, str) else window)
    )


def image(preprocessing: Preprocessing) -> Compose:
    """A 2D image's bit depth, or the given bounds, to [-1, 1]; rows and columns as they are."""
    bounds = BitDepthBounds() if preprocessing.window is None else FixedBounds(preprocessing.window)
    reader = PILReader(converter=as_grey, reverse_indexing=False)
    return Compose([*_reading(reader), CheckFinite(), bounds, ScaleToUnit(), FitPicture(preprocessing.image_size)])


def as_grey(picture: Image.Image) -> Image.Image:
    """Bring colours and palettes to 8 bits of grey; leave grey as it is."""
    return picture if picture.mode in ("L", "F") or picture.mode.startswith("I") else picture.convert("L")


def _volume(preprocessing: Preprocessing, threshold: Callable, bounds: Transform) -> Compose:
    upright = Orientationd(Keys.IMAGE, axcodes=AXES, labels=None)
    steps = [*_reading(NibabelReader()), upright, CheckFinite(), FindHead(threshold), bounds]
    if preprocessing.spacing_mm is not None:
        steps.append(ResampleInPlane(preprocessing.spacing_mm))
    return Compose([*steps, ScaleToUnit(), TakeSlices(preprocessing.image_size, preprocessing.min_foreground)])


def _reading(reader: ImageReader) -> list[Transform]:
    return [ReadImage(reader), EnsureChannelFirstd(Keys.IMAGE)]


def fit_spacing(entries: Sequence[dict[str, Any]], preprocessing: Preprocessing) -> Preprocessing:
    """Choose one spacing for a whole set whose slices don't all fit into the image as they are.

    Reads headers only. Volumes that cannot be read are passed over: `SliceDataset` names them.
    """
    if preprocessing.spacing_mm is not None or preprocessing.modality == "image":
        return preprocessing
    headers = [header for entry in entries if (header := header_or_none(entry["image"]))]
    size = preprocessing.image_size
    if all(max(header.shape[:2]) <= size for header in headers):
        return preprocessing
    extent = max(
        n * step for header in headers for n, step in zip(header.shape[:2], header.spacing_mm[:2], strict=True)
    )
    spacing = math.ceil(extent / size * 1000 - 1e-6) / 1000
    log.info(
        "slices are up to %.0f mm wide: resampled to %g mm, so that each fits into %d pixels", extent, spacing, size
    )
    return replace(preprocessing, spacing_mm=(spacing, spacing))


def header_or_none(path: str) -> Header | None:
    """Size and spacing, or None if the image cannot be read: its preparation will say why."""
    try:
        return read_header(path)
    except MedsynthError:
        return None


def _checked_window(modality: str, window: Any) -> str | tuple[float, float] | None:
    if modality not in MODALITIES:
        raise MedsynthError(f"modality is {modality!r}: choose one of {', '.join(MODALITIES)}")
    if window is None or (modality == "ct" and isinstance(window, str) and window in CT_WINDOWS_HU):
        return window
    if (
        isinstance(window, (list, tuple))
        and len(window) == 2
        and all(map(_is_number, window))
        and window[0] < window[1]
    ):
        return float(window[0]), float(window[1])
    names = f", the name of a window ({', '.join(CT_WINDOWS_HU)})" if modality == "ct" else ""
    raise MedsynthError(f"window is {window!r}: give null{names} or [low, high] for modality {modality}")


def _checked_spacing(spacing: Any) -> tuple[float, float] | None:
    if spacing is None:
        return None
    if (
        isinstance(spacing, (list, tuple))
        and len(spacing) == 2
        and all(_is_number(size) and size > 0 for size in spacing)
    ):
        return float(spacing[0]), float(spacing[1])
    raise MedsynthError(f"spacing_mm is {spacing!r}: give null or two sizes in mm, [between rows, between columns]")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
