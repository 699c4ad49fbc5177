"""The preprocessing of two domains, and a check of their intensity windows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medsynth.data.datalist.datalist import PAIR, domain_of_file, files_of
from medsynth.data.datalist.words import stem
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.picture_range import choose_range
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.region import choose_region
from medsynth.data.preprocessing.spacing import fit_spacing, log_scaled_pictures
from medsynth.errors import MedsynthError
from medsynth.models.translation.pair_slices import PairDataset

WINDOW_HU = (-1000.0, 2000.0)
"""Air to dense bone. The usual window ends at 1000 HU, within bone, and a translation cannot restore clipped values."""
NAMED_CT = re.compile(r"(^|.*[_-])CT$", re.IGNORECASE)
SLICES_LOOKED_AT = 64
MOST_CLIPPED = 0.05  # of a head

log = logging.getLogger(__name__)


def prepare_domains(
    entries: Sequence[Mapping[str, Any]],
    preprocessing: Preprocessing,
    modalities: Sequence[str | None] = (None, None),
    windows: Sequence[Any] = (None, None),
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> dict[str, Preprocessing]:
    """The preprocessing of sources and targets, with one region and one spacing, at which the largest patient fits.

    Args:
        entries: of a datalist of pairs or single images.
        preprocessing: of both, except for modality and window; its modality is the default of both domains.
        modalities: of sources and targets; None: `ct` if all files of the domain are named so, else that of
            `preprocessing`; if that is `image`, so are both.
        windows: of sources and targets; None: percentiles for `mri`, `WINDOW_HU` for `ct`.
        cache_dir, num_workers: as `fit_spacing` takes them.

    Returns: "source" and "target".

    Raises:
        MedsynthError: some contrasts of the sources are CT, and others are not.
    """
    found = {}
    for key, modality, window in zip(PAIR, modalities, windows, strict=True):
        if modality is None and preprocessing.modality == "image":
            modality = "image"
        elif modality is None:
            _require_one_modality(entries if key == "source" else ())
            files = [file for e in entries for name, file in files_of(e).items() if domain_of_file(name) == key]
            modality = _named_modality(files) or preprocessing.modality
            log.info("The %s images are taken to be %s: give %s_modality if they are not", key, modality, key)
        window = WINDOW_HU if modality == "ct" and window is None else window
        bias_correction = preprocessing.bias_correction and modality == "mri"
        own = replace(preprocessing, modality=modality, window=window, bias_correction=bias_correction)
        images = [Source.of(entry, key) for entry in entries if entry.get(key)]
        found[key] = choose_range(images, own, cache_dir, num_workers)
    log_scaled_pictures(entries, found["source"].modality, preprocessing.image_size)
    source = choose_region(entries, found["source"], cache_dir, num_workers)
    source = fit_spacing(entries, source, cache_dir, num_workers)
    return {key: replace(one, region=source.region, spacing_mm=source.spacing_mm) for key, one in found.items()}


def check_windows(dataset: PairDataset) -> None:
    """Warn if a domain's window does not fit its images.

    Raises:
        MedsynthError: all values lie outside the window.
    """
    neighbours = dataset.preprocessing["source"].neighbours
    for key, has in zip(PAIR, dataset.mask.T, strict=True):
        slices = np.flatnonzero(has)
        chosen = slices[np.linspace(0, len(slices) - 1, min(len(slices), SLICES_LOOKED_AT)).astype(int)]
        values = dataset.stored_slices.read(dataset.views[key][chosen][:, :: 1 + 2 * neighbours]).numpy()
        inside = values[values > -1]
        low, high = dataset.spaces[key].bounds
        advice = f"give --{key}_window '[low, high]' or --{key}_modality if these are wrong"
        if not ((values > -1) & (values < 1)).any():
            raise MedsynthError(f"no value of the {key} images lies inside their window, {low:g} to {high:g}: {advice}")
        if dataset.preprocessing[key].modality == "ct" and (inside == 1).mean() > MOST_CLIPPED:
            log.warning(
                "%.0f %% of what the %s images show is above %g, where their window ends, and comes out as %g: %s",
                100 * (inside == 1).mean(),
                key,
                high,
                high,
                advice,
            )


def _named_modality(files: Sequence[str]) -> str | None:
    return "ct" if files and all(NAMED_CT.match(stem(file)) for file in files) else None


def _require_one_modality(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse contrasts of one subject of which some are CT by their names and others are not."""
    for entry in entries:
        named = {bool(NAMED_CT.match(stem(file))): file for file in entry.get("sources", {}).values()}
        if len(named) > 1:
            raise MedsynthError(
                f"{entry['subject']}: {named[True]} is CT and {named[False]} is not, and the sources of a model are of "
                "one modality: list the others, or give --source_modality mri to take all for MRI"
            )
