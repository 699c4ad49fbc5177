"""The datalist of a run, or that of the built-in phantom."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from medsynth.data.datalist.datalist import IMAGE, PAIRS, Datalist, read
from medsynth.data.phantom import phantom

PHANTOM_FOLDER = "data/phantom"
PHANTOM_PAIRS = ("T1w", "CT")  # in a folder of their own

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike | None,
    phantom_folder: str | os.PathLike = PHANTOM_FOLDER,
    keys: Sequence[str] = IMAGE,
    labels: str | Sequence[str] | None = None,
) -> Datalist:
    """Read a datalist; without one, that of the built-in phantom, made on its first use: of T1w, or of T1w and CT.

    Args:
        labels: keep the images of these classes only; None: of all.
    """
    if path is not None:
        return read(path, keys).only(labels)
    folder = Path(f"{phantom_folder}{'' if tuple(keys) == IMAGE else '_pairs'}")
    log.warning("NO DATALIST GIVEN: using the built-in phantom in %s. THESE HEADS ARE MADE UP.", folder)
    if tuple(keys) == IMAGE:
        return read(phantom.write_dataset(folder)).only(labels)
    return read(phantom.write_dataset(folder, modalities=PHANTOM_PAIRS).with_name(PAIRS), keys).only(labels)
