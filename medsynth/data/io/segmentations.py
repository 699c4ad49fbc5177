"""Label maps of images: the names of their codes, and their voxels on the grid of the image."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.transforms import Orientation
from numpy.typing import NDArray

from medsynth.data.io.masks import SAME_MM
from medsynth.data.io.sources import Source, read_picture, read_volume
from medsynth.errors import MedsynthError

BACKGROUND = 0  # code of what belongs to no class
MOST_CLASSES = 256
FOLDERS_UP = 3  # in which names of codes are searched, from the label map on


def read_segmentation(
    source: Source | str | os.PathLike, shape: Sequence[int] | None = None, affine: NDArray | None = None
) -> tuple[NDArray[np.int32], NDArray]:
    """The codes of a label map, on the grid of its image.

    Args:
        source: of the label map.
        shape, affine: of the image, as `read_mask` takes them; None: the label map has no image, and comes with the
            axes right-anterior-superior.

    Returns: (X, Y, Z), and (4, 4) to right-anterior-superior mm.

    Raises:
        MedsynthError: it cannot be read, is on another grid, or is no label map, in words that follow the file's name.
    """
    axes = "RAS" if affine is None else "".join(nib.aff2axcodes(affine))
    volume = Orientation(axes, labels=None)(read_volume(source))
    own = volume.affine.numpy()
    if affine is not None and volume.shape[1:] != tuple(shape):
        raise MedsynthError(
            f"is on another grid ({_size(volume.shape[1:])}) than its image ({_size(shape)}): resample it to the image "
            "(nearest neighbour), if it is this patient's"
        )
    if affine is not None and not np.allclose(own, affine, atol=SAME_MM):
        corners = np.array(list(itertools.product((0, 1), repeat=3))) * (np.array(shape) - 1)
        away_mm = np.linalg.norm(nib.affines.apply_affine(own - affine, corners), axis=1).max()
        raise MedsynthError(
            f"has the size of its image and lies up to {away_mm:.1f} mm away from it: if it is this patient's, "
            "resample it to the image (nearest neighbour)"
        )
    return as_codes(volume[0].numpy()), own


def read_picture_segmentation(path: str | os.PathLike, shape: Sequence[int] | None = None) -> NDArray[np.int32]:
    """The same of a picture's label map, (rows, columns); of one with a palette, its indices."""
    picture = read_picture(path)
    codes = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if codes.ndim != 2:
        raise MedsynthError("is no label map: it has colours, and one code a pixel is needed")
    if shape is not None and codes.shape != tuple(shape):
        found = _size(codes.shape)
        raise MedsynthError(f"is on another grid ({found}) than its image ({_size(shape)}): give one of its size")
    return as_codes(codes)


def as_codes(values: NDArray) -> NDArray[np.int32]:
    """Whole numbers from 0 on.

    Raises:
        MedsynthError: the values are others.
    """
    codes = np.nan_to_num(values, nan=-1, posinf=-1, neginf=-1).astype(np.int32)
    if (codes != values).any() or codes.min() < BACKGROUND:
        wrong = values[(codes != values) | (codes < BACKGROUND)].flat[0]
        raise MedsynthError(f"is no label map: it holds {wrong:g}, and whole numbers from 0 on are needed")
    return codes


def as_indices(codes: NDArray[np.int32], classes: Mapping[int, str]) -> NDArray[np.uint8]:
    """Codes -> indices of the classes, in their order.

    Raises:
        MedsynthError: a code that is none of theirs, in words that follow the file's name.
    """
    found = np.unique(codes)
    if unknown := sorted(set(found.tolist()) - set(classes)):
        raise MedsynthError(
            f"holds the code {', '.join(map(str, unknown[:3]))}, and the classes have {', '.join(map(str, classes))}: "
            "change the code, or make the datalist again (tools/make_datalist.py)"
        )
    order = list(classes)
    table = np.zeros(int(found.max()) + 1, np.uint8)
    table[found] = [order.index(code) for code in found.tolist()]
    return table[codes]


def names_beside(paths: Iterable[str | os.PathLike]) -> tuple[dict[int, str], Path | None]:
    """The names of codes in `dseg.tsv` (BIDS) or `dataset.json` (nnU-Net, MSD), and that file.

    Args:
        paths: of label maps; searched in their folders and some way up.
    """
    folders = dict.fromkeys(folder for path in paths for folder in list(Path(path).absolute().parents)[:FOLDERS_UP])
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        tables = sorted([folder / "dseg.tsv", *folder.glob("*_dseg.tsv")])
        for file in [*filter(Path.is_file, tables), *filter(Path.is_file, [folder / "dataset.json"])]:
            if names := (_names_in_table if file.suffix == ".tsv" else _names_in_json)(file):
                return {BACKGROUND: "background"} | names, file
    return {}, None


def checked_classes(labels: object) -> dict[int, str]:
    """{"0": "background", "1": "ventricles"}, as JSON has it, with the codes as numbers, in their order.

    Raises:
        MedsynthError: it is something else.
    """
    try:
        found = {int(code): str(name) for code, name in labels.items()}
    except (AttributeError, ValueError, TypeError) as error:
        raise MedsynthError(
            f'"labels" is {labels!r}: write a name for each code, such as {{"0": "background"}}'
        ) from error
    return dict(sorted(({BACKGROUND: "background"} | found).items())) if found else {}


def _names_in_table(path: Path) -> dict[int, str]:
    try:
        rows = list(csv.DictReader(path.open(newline="", encoding="utf-8-sig"), delimiter="\t"))
        return {int(row["index"]): row["name"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedsynthError(
            f"{path} cannot be used: the columns index, of whole numbers, and name are needed"
        ) from error


def _names_in_json(path: Path) -> dict[int, str]:
    """nnU-Net writes names with their codes, MSD codes with their names; a region of several codes has no name."""
    try:
        labels = json.loads(path.read_text()).get("labels")
    except (OSError, ValueError, AttributeError) as error:
        raise MedsynthError(f"{path} cannot be used: it is no JSON with labels") from error
    if not isinstance(labels, dict):
        return {}
    pairs = [(name, code) if str(code).isdecimal() else (code, name) for name, code in labels.items()]
    return {int(code): str(name) for name, code in pairs if str(code).isdecimal()}


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
