"""Read synthetic images: slices with or without a sidecar, pictures, or volumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medsynth.data.datalist import datalist
from medsynth.data.io import sources
from medsynth.data.io.header import unreadable
from medsynth.data.io.segmentations import as_codes, names_beside, read_picture_segmentation
from medsynth.data.preprocessing.pipelines import CT_WINDOWS_HU, as_grey
from medsynth.errors import MedsynthError, check_whole

log = logging.getLogger(__name__)

WRITTEN = ("images", "imagesTr")  # where inference writes images, in either layout
FULL_SCALE = {8: 255.0, 16: 65535.0}
Array = np.ndarray


@dataclass(frozen=True)
class SyntheticFile:
    """One image and what its sidecar or its datalist says of it.

    Args:
        sidecar: {} where there is none.
        label: its class, None if unknown.
        subject: of a datalist; None for an image of a folder.
    """

    path: Path
    sidecar: dict[str, Any]
    label: str | None
    subject: str | None = None

    @property
    def position(self) -> float:
        """Slice position in [0, 1], NaN if unknown."""
        value = self.sidecar.get("Position")
        return float("nan") if value is None else float(value)

    @property
    def segmentation(self) -> Path | None:
        """Its label map; None if it has none."""
        named = self.sidecar.get("Segmentation")
        path = self.path.parents[1] / str(named) if named else None
        return path if path is not None and path.is_file() else None


def find(path: str | None) -> list[SyntheticFile]:
    """The images of a folder, of those in a folder that inference wrote, or of a datalist.

    Raises:
        MedsynthError: there are none.
    """
    if path is None:
        raise MedsynthError("no synthetic images are given: name their folder with --synthetic")
    if Path(path).suffix.lower() == ".json":
        entries = datalist.read(path).entries
        return [SyntheticFile(Path(e["image"]), _sidecar(Path(e["image"])), e["label"], e["subject"]) for e in entries]
    folder = Path(path)
    if not folder.exists():
        raise MedsynthError(f"synthetic {folder} does not exist: give the folder that inference wrote its images to")
    if (folder / "images.csv").is_file():
        written = [folder / images for images in WRITTEN if (folder / images).is_dir()]
        folder = written[0] if written else folder
    images = sources.find_images(folder)
    if not images:
        raise MedsynthError(f"synthetic {folder} holds no image: NIfTI, PNG, JPEG or TIFF files are needed")
    files = []
    for image in images:
        sidecar = _sidecar(image)
        label = sidecar.get("Label") if sidecar else image.parent.name if image.parent != folder else None
        files.append(SyntheticFile(image, sidecar, label))
    return files


def choose(files: Sequence[SyntheticFile], num_images: int | None, seed: int) -> list[SyntheticFile]:
    """`num_images` at random, in their order; all where there are no more, or where it is None."""
    if num_images is None:
        return list(files)
    check_whole("num_images", num_images, 1, "1 or more, or null for all")
    if num_images >= len(files):
        return list(files)
    return [files[i] for i in sorted(np.random.default_rng(seed).permutation(len(files))[:num_images])]


def common_recipe(files: Sequence[SyntheticFile]) -> dict[str, Any] | None:
    """The preprocessing that all sidecars name; None without sidecars.

    Raises:
        MedsynthError: there are several.
    """
    recipes = [file.sidecar["Preprocessing"] for file in files if file.sidecar]
    if any(recipe != recipes[0] for recipe in recipes):
        raise MedsynthError(
            "the synthetic images were made for several preprocessings: evaluate those of one model at a time"
        )
    return recipes[0] if recipes else None


def is_volume(file: SyntheticFile) -> bool:
    """Whether it has several slices."""
    if sources.is_picture(file.path):
        return False
    try:
        return sources.read_header(file.path).shape[2] > 1
    except MedsynthError as error:
        raise MedsynthError(f"{file.path} {error}") from error


def read_maps(files: Sequence[SyntheticFile], classes: Mapping[int, str]) -> Array:
    """The label maps of slices (N, H, W), or of volumes (N, X, Y, Z), uint8: indices of these classes, names by code.

    Raises:
        MedsynthError: one has a class of another name.
    """
    named, source = names_beside(file.segmentation for file in files)
    order, found = list(classes.values()), []
    for file in files:
        codes = _codes(file.segmentation)
        held = {code: named.get(code, classes.get(code)) for code in np.unique(codes).tolist()}
        held[0] = classes[0]  # the background, whatever its name
        if unknown := [name or code for code, name in held.items() if name not in order]:
            raise MedsynthError(
                f"label map {file.segmentation} holds {unknown[0]}, and the real images have {', '.join(order)}: give "
                f"the classes the same names ({source or 'a dseg.tsv beside the maps'})"
            )
        table = np.zeros(int(codes.max()) + 1, np.uint8)
        table[[code for code in held if code < len(table)]] = [
            order.index(name) for code, name in held.items() if code < len(table)
        ]
        found.append(table[codes])
    return np.stack(found)


def _codes(path: Path) -> Array:
    if sources.is_picture(path):
        return read_picture_segmentation(path)
    image = nib.load(path)
    if image.shape[2] == 1:
        return as_codes(image.get_fdata()[..., 0])
    return as_codes(nib.as_closest_canonical(image).get_fdata())


def read_slices(
    files: Sequence[SyntheticFile], window: str | Sequence[float] | None, max_bad_fraction: float
) -> tuple[Array, list[int], list[str]]:
    """Read 2D images in [0, 1].

    Args:
        window: intensities of 0 and 1 where a file does not say them.
        max_bad_fraction: part of the images that may be unusable.

    Returns: (N, H, W) float32, which files they are of, and why the others are left out.
    """
    images: list[Array] = []
    good: list[int] = []
    bad: list[str] = []
    for i, file in enumerate(files):
        try:
            image = _read_slice(file, window)
            if images and image.shape != images[0].shape:
                raise MedsynthError(f"is {_size(image)}, and the others are {_size(images[0])}: use one size")
        except MedsynthError as error:
            bad.append(f"{file.path} {error}")
            continue
        images.append(image)
        good.append(i)
    check_left_out(bad, len(files), max_bad_fraction)
    return np.stack(images), good, bad


def check_left_out(bad: Sequence[str], count: int, max_bad_fraction: float) -> None:
    """Name the synthetic images that cannot be used; stop if they are too many."""
    for reason in bad:
        log.warning("left out: %s", reason)
    if len(bad) == count or len(bad) > max_bad_fraction * count:
        raise MedsynthError(
            f"{len(bad)} of {count} synthetic images cannot be used, and at most {max_bad_fraction:.0%} may be left "
            f"out (max_bad_fraction): {bad[0]}"
        )


def _read_slice(file: SyntheticFile, window: str | Sequence[float] | None) -> Array:
    reader: Callable[[Path], tuple[Array, float | None]] = _picture if sources.is_picture(file.path) else _volume_slice
    try:
        image, full_scale = reader(file.path)
    except MedsynthError:
        raise
    except Exception as error:  # on damaged bytes, the libraries raise whatever comes
        raise MedsynthError(unreadable(error)) from error
    if not np.isfinite(image).all():
        raise MedsynthError("has values that are not finite (NaN): look at how it was made")
    low, high = _bounds(file, window, image, full_scale)
    if image.min() < low - 0.02 * (high - low) or image.max() > high + 0.02 * (high - low):
        log.debug("%s has values outside of %g to %g, clipped", file.path, low, high)
    return ((image - low) / (high - low)).clip(0, 1).astype(np.float32)


def _bounds(
    file: SyntheticFile, window: str | Sequence[float] | None, image: Array, full_scale: float | None
) -> tuple[float, float]:
    """The values that are black and white in real slices."""
    if bounds := file.sidecar.get("IntensityBounds"):
        return float(bounds[0]), float(bounds[1])
    if window is not None:
        low, high = CT_WINDOWS_HU[window] if isinstance(window, str) else window
        return float(low), float(high)
    if full_scale is not None:
        return 0.0, full_scale
    if image.min() >= -1e-3 and image.max() <= 1 + 1e-3:
        return 0.0, 1.0
    raise MedsynthError(
        f"has values from {image.min():.4g} to {image.max():.4g} and no sidecar that says what is black and white: "
        'give --window "[low, high]"'
    )


def _picture(path: Path) -> tuple[Array, float | None]:
    """Values and their full scale, None for real numbers."""
    bits = sources.read_header(path).bits
    return np.asarray(as_grey(sources.read_picture(path)), dtype=np.float64), FULL_SCALE.get(bits)


def _volume_slice(path: Path) -> tuple[Array, float | None]:
    """A single slice as a radiologist sees it; rows and columns as they are where the file has no coordinates in mm."""
    image = sources.read_volume(path)
    values, affine = image[0].numpy(), np.asarray(image.affine)
    full_scale = None
    if is_nifti(path):
        header = nib.load(path).header
        full_scale = 255.0 if header.get_data_dtype() == np.uint8 else None
        if header.get_xyzt_units()[0] != "mm":
            return _single(values.squeeze(), values.shape), full_scale
    upright = nib.as_closest_canonical(nib.Nifti1Image(values, affine)).dataobj
    return _single(np.asarray(upright).squeeze(axis=2).T[::-1, ::-1], values.shape), full_scale


def _single(values: Array, shape: tuple[int, ...]) -> Array:
    if values.ndim != 2:
        raise MedsynthError(f"has the shape {shape}, and the others are single slices: use one kind")
    return values.astype(np.float64)


def is_nifti(path: Path) -> bool:
    """Whether its name is that of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _sidecar(image: Path) -> dict[str, Any]:
    """The sidecar of an image, {} if none can be read."""
    stem = image.name.removesuffix(".gz").rsplit(".", 1)[0]
    try:
        content = json.loads(image.with_name(f"{stem}.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "Preprocessing" in content else {}


def _size(image: Array) -> str:
    return " x ".join(map(str, image.shape))
