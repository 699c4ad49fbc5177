"""The range of grey values that the pictures of a set use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.pipelines import Preprocessing, read_picture
from medsynth.data.preprocessing.preparation import PICTURES_A_FILE, Preparation, Result, identity, reason, recipe
from medsynth.data.preprocessing.transforms import bits_of
from medsynth.errors import MedsynthError

log = logging.getLogger(__name__)


def choose_range(
    images: Sequence[Source],
    preprocessing: Preprocessing,
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> Preprocessing:
    """Set the window of pictures of more than 8 bits to the range that the set uses; the log says so if it is not all.

    Values of 10 or 12 bits are often stored in 16, and would be nearly black.

    Args:
        images: all of the set; those that cannot be read are skipped, and reported when they are prepared.
        preprocessing: returned unchanged if it has a window, or is of volumes.
        cache_dir: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
        num_workers: processes that read the pictures; 0: this one.

    Raises:
        MedsynthError: pictures of 8 bits are among them.
    """
    if preprocessing.modality != "image" or preprocessing.window is not None:
        return preprocessing
    depths = {image: bits for image in images if (bits := bits_of(image))}
    deep = [image for image, bits in depths.items() if bits > 8]
    records, _ = Preparation(
        deep, PICTURES_A_FILE, identity, ["range", recipe(preprocessing)], _measured, Cache(cache_dir)
    ).all(num_workers, "measuring pictures")
    found = [facts["highest"] for record in records for facts in record["images"] if "highest" in facts]
    bits, highest = max(depths.values(), default=8), max(found, default=0)
    high, shallow = used_range(highest, bits), len(depths) - len(deep)
    if high is not None and shallow:
        raise MedsynthError(
            f"{len(deep)} pictures of more than 8 bits hold values up to {highest:,.0f} only, and {shallow} are of 8 "
            "bits: convert them to one depth, or give a window that fits all, such as --window '[0, 255]'"
        )
    if high is not None:
        log.info("pictures hold values up to %d: black is 0 and white %d; give window to state others", highest, high)
    return preprocessing if shallow or not deep else replace(preprocessing, window=(0.0, high or 2.0**bits - 1))


def _measured(source: Source) -> Result:
    try:
        reader = Compose(read_picture(Preprocessing("image", (0.0, 1.0), None, 1, grey=True)))
        return None, {"highest": float(reader({"source": source})[Keys.IMAGE].max())}
    except Exception as error:
        return None, {"error": reason(error)}


def used_range(highest: float, bits: int) -> int | None:
    """The highest value of the bits that a set of pictures uses; None where these are all, or 8 at most.

    Args:
        highest: value of all pictures.
        bits: that they are stored in.
    """
    used = int(highest).bit_length()
    return 2**used - 1 if bits > 8 and 0 < used < bits else None
