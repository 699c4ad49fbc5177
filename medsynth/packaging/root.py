"""The folder of a packed bundle."""

from __future__ import annotations

from pathlib import Path

from medsynth.run.origin import config_origin


def bundle_root() -> str:
    """The folder above the `configs/` that the calling configuration was read from.

    Where MONAI was not given the configuration's file, as after `load_bundle_config`, it is the working directory: set
    `bundle_root` there.
    """
    origin = config_origin()
    folder = origin.folder or (Path(origin.files[0]).parent if origin.files else None)
    return "." if folder is None else str(folder.resolve().parent)
