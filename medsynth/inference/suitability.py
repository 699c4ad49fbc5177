"""Whether inputs are the kind of image that a model learned, before it is applied to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from tqdm import tqdm

from medsynth.data.io import dicom, sources
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.foreground import Patient, region_of
from medsynth.data.preprocessing.hounsfield import NO_AIR_HU, mended
from medsynth.data.preprocessing.pipelines import Preprocessing, find, volume_bounds
from medsynth.data.preprocessing.spacing import in_plane
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing
from medsynth.errors import MedsynthError, check_bool
from medsynth.inference.generate import slice_space
from medsynth.run.recipe import LoadedModel

TAGS = {"CT": "ct", "MR": "mri"}  # of DICOM, and the modality of the settings
NAMES = {"ct": "CT", "mri": "MRI"}
FAT_HU, LEAST_FAT = (-200.0, -20.0), 0.01  # and the least part of the voxels of CT without air
BRAIN_HU, BONE_HU = (10.0, 80.0), 800.0  # medians of what is not the background, and least maximum, of CT
LEAST_BACKGROUND = 0.3  # part of the voxels of CT whose air was set to one value
MOST_BEYOND = 0.5  # part of a patient that the model's bounds may clip without a warning
MOST_FINER = 1.5  # how many times pixels may differ from those that a model learned without a warning

log = logging.getLogger(__name__)


def suitable_inputs(inputs: Sequence[dict[str, Any]], model: LoadedModel, force: bool) -> list[dict[str, Any]]:
    """The inputs that are of the kind that the model of one image set learned; see `suitable`."""
    if not inputs or "source" in model.preprocessing:
        return list(inputs)  # of two domains, which whoever uses the model refuses
    if "size" in model.preprocessing:  # of volumes
        return suitable(inputs, VolumePreprocessing.from_dict(model.preprocessing), None, force)
    learned = Preprocessing.from_dict(model.preprocessing)
    if "slices" not in model.extra:
        return suitable(inputs, learned, None, force)
    pixels = slice_space(model).spacing_mm
    scale = model.extra.get("scale", 1)  # a super-resolution learned from pixels that are as many times coarser
    return suitable(inputs, learned, (pixels, [scale * mm for mm in pixels]), force)


def suitable(
    inputs: Sequence[dict[str, Any]],
    learned: Preprocessing | VolumePreprocessing,
    pixels_mm: tuple[Sequence[float], Sequence[float]] | None,
    force: bool,
    others: Mapping[str, Preprocessing] | None = None,
) -> list[dict[str, Any]]:
    """The inputs of the modality that a model learned, by their values and DICOM tags.

    Another region, other pixels, and intensities beyond the model's bounds are warned of. Pictures are taken as they
    are, and what cannot be read is left to those who use it.

    Args:
        inputs: from `find_inputs`.
        learned: how the training images were prepared.
        pixels_mm: the finest and the coarsest that it learned from, each between rows and between columns;
            None: not known.
        force: keep inputs of another modality, with what is wrong as "forced", for their sidecars.
        others: what would take inputs of another modality, in words, and what it learned.

    Raises:
        MedsynthError: none of the inputs is of that modality.
    """
    check_bool("force", force, "true, to go on with inputs of another modality, or false")
    if learned.modality == "image" or not inputs:
        return list(inputs)
    found, refused, notes = [], [], {}
    for entry in tqdm(inputs, desc="checking inputs", unit="input"):
        every = list(Source.of(entry).parts.values())
        reasons = ((one.path, unsuitable(one, learned, others or {})) for one in every)
        path, wrong = next((found for found in reasons if found[1]), ("", None))
        if wrong and force:
            log.warning("%s %s; --force true goes on", path, wrong)
            entry = entry | {"forced": wrong}
        elif wrong:
            refused.append(f"{sources.shown(path)} {wrong}")
            continue
        found.append(entry)
        for one in every:
            if pixels_mm is not None and (note := _other_pixels(one, learned, pixels_mm)):
                notes.setdefault(note, []).append(one.path)
    for note, paths in notes.items():
        log.warning("%s%s %s", paths[0], f" (and {len(paths) - 1} more)" if len(paths) > 1 else "", note)
    if not found:
        more = f" (as are {len(refused) - 1} others)" if len(refused) > 1 else ""
        raise MedsynthError(f"{refused[0]}{more}, or go on with --force true")
    for line in refused:
        log.warning("left out: %s", line)
    return found


def unsuitable(source: Source, learned: Preprocessing, others: Mapping[str, Preprocessing]) -> str | None:
    """Why an input is of another modality than a model learned, in words that follow the file's name; warns of more."""
    try:
        volume = sources.read_volume(source)
        values = volume[0].numpy()
        tag = dicom.modality_of(Path(source.path)) if sources.is_dicom(source.path) else ""
    except MedsynthError:
        return None
    modality, why = TAGS.get(tag), f"is {tag} by its DICOM tag"
    if modality in (None, learned.modality):
        modality, why = modality_by_values(values)
    if modality != learned.modality:
        fits = next((name for name, other in others.items() if other.modality == modality), None)
        cure = fits or f"give {NAMES[learned.modality]}, or a model of {NAMES[modality]}"
        return f"{why}, and this model's input is {NAMES[learned.modality]}: {cure}"
    if tag and tag not in TAGS:
        log.warning("%s is %s by its DICOM tag, and this model learned %s", source.path, tag, NAMES[learned.modality])
    try:
        body = Preprocessing(learned.modality, learned.window, None, 1, region="body")
        data = Compose([*find(body), volume_bounds(body)])({Keys.IMAGE: volume, "source": source})
    except Exception:  # transforms wrap what they raise, and its user says it
        return None
    _warn_of_region(source, learned, data["patient"])
    _warn_of_intensities(source, learned, data["patient"], data["bounds"])
    return None


def modality_by_values(values: np.ndarray) -> tuple[str, str]:
    """`ct` or `mri`, and why, in words that follow the file's name.

    CT has air or fat below 0; where its background is 0, brain near 40 HU beside bone.
    """
    try:
        values, note = mended(values)
    except MedsynthError:
        note = None
    low, high = float(values.min()), float(values.max())
    if note or low < NO_AIR_HU:
        return "ct", f"has values down to {low:g}, as the air of CT"
    if low < FAT_HU[0] or np.mean((values > FAT_HU[0]) & (values < FAT_HU[1])) > LEAST_FAT:
        return "ct", f"has values from {low:g} to {high:g}, as CT without air"
    background = float(np.median(values[:: max(1, values.shape[0] - 1)]))
    tissue = values[values != background]
    if high > BONE_HU and tissue.size and tissue.size < (1 - LEAST_BACKGROUND) * values.size:
        few, middle = np.percentile(tissue, (10, 50))
        if few > 0 and BRAIN_HU[0] < middle < BRAIN_HU[1]:
            return "ct", f"has brain of {middle:.0f} beside bone of {high:g}, as CT"
    return "mri", f"has values from {low:g} to {high:g}, as MRI and unlike Hounsfield units"


def _other_pixels(
    source: Source, learned: Preprocessing, pixels_mm: tuple[Sequence[float], Sequence[float]]
) -> str | None:
    try:
        mm = in_plane(sources.read_header(source).spacing_mm, learned.plane)
    except MedsynthError:
        return None
    fine, coarse = map(np.array, pixels_mm)
    if not ((mm * MOST_FINER < fine).any() or (mm > coarse * MOST_FINER).any()):
        return None
    size, own = (f"{pair[0]:.3g} x {pair[1]:.3g} mm" for pair in (mm, fine))
    return f"has pixels of {size}, and this model learned from {own}: expect the detail of the coarser of the two"


def _warn_of_region(source: Source, learned: Preprocessing, patient: Patient) -> None:
    shown = region_of(patient.mask, np.multiply(patient.spacing_mm, patient.step))
    if shown != learned.region:
        names = {"head": "a head", "body": "another part of the body than a head"}
        log.warning(
            "%s seems to show %s, and this model learned %s: what it makes may be wrong",
            source.path,
            names[shown],
            {"head": "heads", "body": "bodies"}.get(learned.region, learned.region),
        )


def _warn_of_intensities(source: Source, learned: Preprocessing, patient: Patient, bounds: tuple[float, float]) -> None:
    beyond = float(np.mean((patient.values < bounds[0]) | (patient.values > bounds[1])))
    if beyond > MOST_BEYOND:
        log.warning(
            "%s: %.0f %% of the patient is outside of %g to %g, which this model learned, and clipped",
            source.path,
            100 * beyond,
            *bounds,
        )
