"""The folder of a packed bundle."""

from __future__ import annotations

from medsynth.run.origin import config_origin


def bundle_root() -> str:
    """The folder above the `configs/` that the calling configuration was read from.

    Outside a workflow, such as after `load_bundle_config`, it is the working directory: set `bundle_root` there.
    """
    folder = config_origin().folder
    return "." if folder is None else str(folder.resolve().parent)
