"""Where a packed bundle lies."""

from __future__ import annotations

import inspect
from types import FrameType

from monai.bundle import ConfigWorkflow


def bundle_root() -> str:
    """The folder above the `configs/` that the calling configuration was read from, wherever that is.

    MONAI tells a configuration nothing of its own place, so the workflow is looked up in the calls that led here.
    Outside of one, as after `load_bundle_config`, it is the working directory: set `bundle_root` there.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return str(workflow.config_root_path.resolve().parent)
        frame = frame.f_back
    return "."
