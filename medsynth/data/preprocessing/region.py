"""Head or body: told from the images of a set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose

from medsynth.data.io.sources import Source, header_or_none
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.foreground import region_of
from medsynth.data.preprocessing.pipelines import REGIONS, Preprocessing, locate
from medsynth.data.preprocessing.preparation import Preparation, Result, identity, reason, recipe
from medsynth.data.preprocessing.transforms import FindPatient

IMAGE_KEYS = ("image", "source", "target")  # of a datalist's entry

log = logging.getLogger(__name__)


def choose_region(
    entries: Sequence[dict[str, Any]],
    preprocessing: Preprocessing,
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> Preprocessing:
    """Tell whether the volumes of a set show heads or another part of the body; the log says which.

    A set of both counts as bodies, of which no slice is dropped, with a warning. A single slice tells nothing beside
    volumes. Each volume is measured once, and the
    result is cached; those that cannot be read are skipped, and reported when slices are taken.

    Args:
        entries: of a datalist, single images or pairs.
        preprocessing: returned unchanged if it has a region, or is of pictures.
        cache_dir: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that measure the volumes; 0: this one.
    """
    if preprocessing.region is not None or preprocessing.modality == "image":
        return preprocessing
    found: dict[str, list[str]] = {region: [] for region in REGIONS}
    images = without_single_slices(first_images(entries))
    for image, facts in measure_all(images, preprocessing.modality, cache_dir, num_workers).items():
        found[facts["region"]].append(image.path)
    heads, bodies = (found[region] for region in REGIONS)
    region = "body" if bodies else "head"
    if heads and bodies:
        log.warning(
            "%d volumes show a head, such as %s, and %d another part of the body, such as %s: all count as bodies; "
            "make a datalist of each, or give region",
            len(heads),
            heads[0],
            len(bodies),
            bodies[0],
        )
    else:
        log.info("region: %s, as the extent of the patients tells; give region if it is not", region)
    return replace(preprocessing, region=region)


def first_images(entries: Sequence[dict[str, Any]]) -> list[Source]:
    """Of each entry: its image, its source, or else its target."""
    return [Source.of(entry, next(key for key in IMAGE_KEYS if entry.get(key))) for entry in entries]


def without_single_slices(images: Sequence[Source]) -> list[Source]:
    """The images of several slices; all, where there are none of these. What cannot be read stays."""
    headers = [header_or_none(image) for image in images]
    thick = [image for image, header in zip(images, headers, strict=True) if header is None or 1 not in header.shape]
    return thick or list(images)


def measure_all(
    images: Sequence[Source], modality: str, cache_dir: str | Path | None, num_workers: int
) -> dict[Source, dict[str, Any]]:
    """What `measure` finds in each volume that can be read."""
    how = Preprocessing(modality, None, None, 1)
    one = partial(measure, locator=Compose(locate(how)), body=FindPatient(modality, "body"))
    records, _ = Preparation(images, 1, identity, ["patient", recipe(how)], one, Cache(cache_dir)).all(
        num_workers, "finding patients"
    )
    facts = {image: record["images"][0] for image, record in zip(images, records, strict=True)}
    return {image: found for image, found in facts.items() if "error" not in found}


def measure(source: Source, locator: Compose, body: FindPatient) -> Result:
    """The `region` that a volume shows, and the widths of its `head` and its `body` along `foreground.AXES`, in mm.

    The widths are of the patient's box, found as a head and as a body; or what is wrong with the image.
    """
    try:
        data = locator({"source": source})
        found = {"head": data["patient"], "body": body(data)["patient"]}
    except Exception as error:
        return None, {"error": reason(error)}
    whole = found["body"]
    widths = {name: (np.ptp(one.box, axis=1) * one.spacing_mm).tolist() for name, one in found.items()}
    return None, widths | {"region": region_of(whole.mask, np.multiply(whole.spacing_mm, whole.step))}
