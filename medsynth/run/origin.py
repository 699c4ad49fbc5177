"""Where a configuration comes from, for the objects that it builds."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple


@dataclass(frozen=True)
class Origin:
    """What is building the caller.

    Attributes:
        parser: of the configuration; None outside of one.
        files: that `monai.bundle` was given; () if none.
        folder: of the first of them; None outside of a `ConfigWorkflow`.
    """

    parser: ConfigParser | None = None
    files: tuple[str, ...] = ()
    folder: Path | None = None


def config_origin() -> Origin:
    """The parser, the files and the folder of the configuration that is building the caller.

    They are looked up in the calls that led here, and nowhere else in medsynth: MONAI 1.6 offers no other way. What a
    configuration builds is handed its arguments alone; `$` expressions see imported names and what is resolved so far;
    `ConfigParser` does not keep what it read; `config_root_path` is known to the workflow alone; and `monai.bundle run`
    has no hook. If MONAI changes, nothing is found, and overrides are not checked.
    """
    parser: ConfigParser | None = None
    folder: Path | None = None
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if parser is None and isinstance(owner, ConfigParser):
            parser = owner
        elif folder is None and isinstance(owner, ConfigWorkflow):
            folder = Path(owner.config_root_path)
        in_monai = str(frame.f_globals.get("__name__", "")).startswith("monai.bundle")
        if parser is not None and in_monai and frame.f_locals.get("config_file"):
            return Origin(parser, ensure_tuple(frame.f_locals["config_file"]), folder)
        frame = frame.f_back
    return Origin(parser, (), folder)
