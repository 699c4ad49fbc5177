"""A look at the values of the images of a list, so that what is no scan is told before anything is trained."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys as Keys
from numpy.typing import NDArray
from tqdm import tqdm

from medsynth.data.datalist.datalist import IMAGE, PAIR, files_of
from medsynth.data.datalist.survey import Survey, some
from medsynth.data.datalist.words import modality_of
from medsynth.data.io.masks import read_mask
from medsynth.data.io.sources import Source, is_picture, read_picture, read_volume, shown
from medsynth.data.preprocessing.hounsfield import NO_AIR_HU, is_offset_ct, is_windowed, mended
from medsynth.data.preprocessing.picture_range import used_range
from medsynth.data.preprocessing.pipelines import as_grey
from medsynth.data.preprocessing.transforms import CheckFinite
from medsynth.errors import MedsynthError

WORKERS = min(4, os.cpu_count() or 1)  # each holds a few volumes in memory
MOST_LABELS = 256  # values of a label map
LEAST_FLAT = 0.5  # part of the voxels of labels that equal their neighbours
MOST_SAMPLED = 200_000  # voxels among which values are counted


@dataclass(frozen=True)
class Seen:
    """What the values of an entry's image say.

    Args:
        trouble: why it cannot be used, in words that follow the file's name.
        is_label_map: by its values.
        low: the lowest value; None for pictures and pairs.
        is_windowed: a volume with the range of values that a window leaves of CT.
        is_black: a picture that is the same everywhere.
        extent: the lowest and the highest value of a picture.
        no_mask: why its mask cannot be used, in words that follow the mask's name.
        mask_note: what was done to its mask, likewise.
        no_hounsfield: of each CT that is not in Hounsfield units, what is done or wrong, in words for several files.
    """

    trouble: str | None = None
    is_label_map: bool = False
    low: float | None = None
    is_windowed: bool = False
    is_black: bool = False
    extent: tuple[float, float] | None = None
    no_mask: str | None = None
    mask_note: str | None = None
    no_hounsfield: Mapping[str, str] = field(default_factory=dict)


def look(found: Survey) -> None:
    """Leave out images that are constant, not finite or label maps, and masks that are empty or none; note the rest.

    Pairs of volumes are read when their alignment is checked; of these, the masks and CT alone are.

    Args:
        found: its entries, what is left out and the notes are changed.

    Raises:
        MedsynthError: nothing is left, or the values are those of MRI and of CT.
    """
    ct = {path for path, contrast in found.contrast_of.items() if modality_of(contrast) == "CT"}
    doing = [
        entry
        for entry in found.entries
        if not entry.keys() >= set(PAIR) or "mask" in entry or ct.intersection(files_of(entry).values())
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        bar = tqdm(
            pool.map(partial(_seen, ct=ct), doing), "looking at values", len(doing), unit="image", disable=not doing
        )
        seen = list(zip(doing, bar, strict=True))
    _settle_masks(found, seen)
    found.notes += _hounsfield_notes([one for _, one in seen])
    _settle_probability_maps(found)
    are_all_labels = all(one.is_label_map for _, one in seen)
    if are_all_labels and seen:
        found.notes.append("all images are label maps by their values: whole numbers in even areas")
    for entry, one in seen:
        label_map = one.is_label_map and not are_all_labels
        trouble = "is a label map by its values: whole numbers in even areas" if label_map else one.trouble
        if trouble:
            found.left_out[_file(entry)] = trouble
            found.entries = [other for other in found.entries if other is not entry]
    if not found.entries:
        path, reason = next(iter(found.left_out.items()))
        raise MedsynthError(f"none of the {len(found.left_out)} images can be used: {shown(path)} {reason}")
    if black := [_file(entry).name for entry, one in seen if one.is_black]:
        found.notes.append(f"{len(black)} pictures hold the same value everywhere: {some(black)}")
    found.notes += _range_notes(found, seen) + _window_notes(found, seen)
    _check_modalities(found, seen)


def read_scan(source: Source) -> MetaTensor:
    """Voxels (1, X, Y, Z) that are finite and not all the same.

    Raises:
        MedsynthError: in words that follow the file's name.
    """
    volume = CheckFinite()({Keys.IMAGE: read_volume(source)})[Keys.IMAGE]
    if volume.min() == volume.max():
        raise MedsynthError("holds the same value everywhere: export it again")
    return volume


def is_label_map(values: NDArray) -> bool:
    """Whether voxels (X, Y, Z) are few whole numbers, and those that are not the most frequent lie in even areas."""
    sample = values.ravel()[:: max(1, values.size // MOST_SAMPLED)]
    found, counts = np.unique(sample, return_counts=True)
    if len(found) > min(MOST_LABELS, values.size // 16) or not np.array_equal(values, np.round(values)):
        return False
    inside = values[1:] != found[counts.argmax()]
    return bool(inside.any() and (values[1:] == values[:-1])[inside].mean() > LEAST_FLAT)


def is_probability_map(path: Path) -> bool:
    """Whether it is a 4D NIfTI file of real numbers from 0 to 1 that sum to 1 at most at each voxel."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        image = nib.load(path)
        if image.ndim != 4 or image.shape[3] < 2 or image.get_data_dtype().kind != "f":
            return False
        values = np.asarray(image.dataobj)
        return bool(values.min() >= 0 and 0 < values.max() <= 1 and values.sum(3).max() < 1.01)
    except Exception:  # on damaged bytes, nibabel raises errors of any type
        return False


def _seen(entry: Mapping[str, Any], ct: Collection[str]) -> Seen:
    """What the values of an entry's images and of its mask say; `ct` are the files that hold CT."""
    facts: dict[str, Any] = {}
    if "mask" in entry and not is_picture(file := str(entry.get("target") or _file(entry))):
        facts = _seen_mask(entry, file)
    if entry.keys() >= set(PAIR):
        found = {
            file: _seen_hounsfield(Source(file, entry.get("frame"))) for file in files_of(entry).values() if file in ct
        }
        return Seen(**facts, no_hounsfield={file: line for file, line in found.items() if line})
    if is_picture(_file(entry)):
        return _seen_picture(_file(entry))
    try:
        values = read_scan(Source(str(_file(entry)), entry.get("frame")))[0].numpy()
    except MedsynthError as error:
        return Seen(str(error), **facts)
    line = _in_hounsfield(values) if str(_file(entry)) in ct or is_offset_ct(values) else None
    facts["no_hounsfield"] = {str(_file(entry)): line} if line else {}
    return Seen(None, is_label_map(values), float(values.min()), is_windowed(values), **facts)


def _seen_hounsfield(source: Source) -> str | None:
    try:
        return _in_hounsfield(read_volume(source)[0].numpy())
    except MedsynthError:
        return None  # the check of alignment says it


def _in_hounsfield(values: NDArray) -> str | None:
    """What reading does to CT that is not in Hounsfield units, or why it cannot be read as CT; None if it is."""
    try:
        note = mended(values)[1]
    except MedsynthError as error:
        return f"cannot be read with --modality ct, as it {error}"
    return note and f"is read, with --modality ct, with {note}"


def _seen_mask(entry: Mapping[str, Any], file: str) -> dict[str, str | None]:
    try:
        image = read_volume(Source(file, entry.get("frame")))
    except MedsynthError:
        return {}  # the image is left out
    try:
        return {"mask_note": read_mask(entry["mask"], image.shape[1:], image.affine.numpy())[1]}
    except MedsynthError as error:
        return {"no_mask": str(error)}


def _seen_picture(path: Path) -> Seen:
    try:
        values = np.asarray(as_grey(read_picture(path)))
    except (MedsynthError, ValueError):
        return Seen()  # reading it tells what is wrong
    return Seen(is_black=bool(np.ptp(values) == 0), extent=(float(values.min()), float(values.max())))


def _range_notes(found: Survey, seen: Iterable[tuple[Mapping[str, Any], Seen]]) -> list[str]:
    """Of pictures that do not fill their bits, or whose values have no range of their own."""
    extents = {_file(entry): one.extent for entry, one in seen if one.extent}
    bits = {path: found.header_of[str(path)].bits for path in extents}
    highest = max((high for path, (_, high) in extents.items() if (bits[path] or 0) > 8), default=0)
    most = max(filter(None, bits.values()), default=8)
    notes = []
    if white := used_range(highest, most):
        notes.append(
            f"pictures of {most} bits hold values up to {highest:.0f}: training takes 0 as black and {white} as white, "
            "unless --window '[low, high]' states others"
        )
    if without := [path for path in extents if bits[path] is None]:
        low, high = min(extents[path][0] for path in without), max(extents[path][1] for path in without)
        notes.append(
            f"{len(without)} pictures hold signed or real values, from {low:g} to {high:g}, such as {without[0].name}: "
            f"state black and white in training, such as --window '[{low:g}, {high:g}]'"
        )
    return notes


def _window_notes(found: Survey, seen: Iterable[tuple[Mapping[str, Any], Seen]]) -> list[str]:
    """Of volumes that nothing but their values calls CT after a window, or MRI: the values do not tell which."""
    windowed = [_file(entry) for entry, one in seen if one.is_windowed and not (one.trouble or one.is_label_map)]
    if not (unnamed := [path.name for path in windowed if not found.contrast_of.get(str(path))]):
        return []
    return [
        f"{len(unnamed)} images hold values from 0 to 255 or up to 1, as CT after a window: {some(unnamed)}: if they "
        "are CT, export them again in Hounsfield units (air -1000, water 0); MRI needs no units and may stay as it is"
    ]


def _settle_masks(found: Survey, seen: list[tuple[dict[str, Any], Seen]]) -> None:
    """List images whose masks cannot be used without them, and note which are resampled."""
    for entry, one in seen:
        if one.no_mask:
            found.left_out[Path(entry.pop("mask"))] = f"of subject {entry['subject']} {one.no_mask}"
    if moved := [
        f"{entry['mask']} of subject {entry['subject']} {one.mask_note}" for entry, one in seen if one.mask_note
    ]:
        found.notes.append(moved[0] + (f" (and {len(moved) - 1} similar)" if len(moved) > 1 else ""))


def _hounsfield_notes(seen: Iterable[Seen]) -> list[str]:
    """One for each cause, with the first file and the number of the others."""
    alike: dict[str, list[str]] = defaultdict(list)
    for file, line in (item for one in seen for item in one.no_hounsfield.items()):
        alike[re.sub(r"values from \S+ to \S+", "", line)].append(f"{shown(file)} {line}")
    return [same[0] + (f" (and {len(same) - 1} similar)" if len(same) > 1 else "") for same in alike.values()]


def _settle_probability_maps(found: Survey) -> None:
    """Say of 4D files that they are probability maps; one of their volumes is no image either."""
    four = {_file(entry): entry for entry in found.entries if "frame" in entry}
    for path in [path for path in [*four, *found.left_out] if is_probability_map(path)]:
        found.left_out[path] = "is a 4D probability map by its values"
        found.entries = [entry for entry in found.entries if entry is not four.get(path)]


def _check_modalities(found: Survey, seen: list[tuple[dict[str, Any], Seen]]) -> None:
    """Refuse values of MRI and of CT in one set of images whose names do not say what they are."""
    lows = {
        _file(entry): one.low for entry, one in seen if IMAGE[0] in entry and one.low is not None and not one.trouble
    }
    unnamed = {path: low for path, low in lows.items() if not found.contrast_of.get(str(path))}
    ct, mri = ([path for path, low in unnamed.items() if is_so(low)] for is_so in (_is_ct, _is_mri))
    if ct and mri:
        raise MedsynthError(
            f"{len(ct)} images have values as CT has, below {NO_AIR_HU:g}, such as {ct[0].name}, and {len(mri)} have "
            f"none below 0, as MRI, such as {mri[0].name}, and one set must not mix them: choose with --pattern, or "
            "make pairs with --source and --target"
        )


def _is_ct(low: float) -> bool:
    return low < NO_AIR_HU


def _is_mri(low: float) -> bool:
    return low >= 0


def _file(entry: Mapping[str, Any]) -> Path:
    return Path(next(iter(files_of(entry).values())))
