"""Where a configuration comes from, for the objects that it builds."""

from __future__ import annotations

import contextlib
import inspect
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple

WORKFLOWS = {"training": "train.json", "inference": "inference.json", "evaluation": "evaluate.json"}


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


def command(workflow: str, **settings: Any) -> str | None:
    """The command that runs another configuration, beside the one that is running, from the same folder.

    Args:
        workflow: of `WORKFLOWS`.
        settings: for its keys.

    Returns: None if there is no such configuration.
    """
    files = config_origin().files
    path = Path(files[0]).with_name(WORKFLOWS[workflow]) if files else None
    if path is None or not path.is_file():
        return None
    words = ["python", "-m", "monai.bundle", "run", workflow, "--config_file", str(path)]
    return shlex.join(words + [str(word) for name, value in settings.items() for word in (f"--{name}", value)])


def evaluation_command() -> str | None:
    """The command that judges the model of an inference that is running, on the data that it learned from.

    Returns: None in any other workflow, and where the model's run folder does not say which data these are.
    """
    origin = config_origin()
    if origin.parser is None or not origin.files or Path(origin.files[0]).name != WORKFLOWS["inference"]:
        return None
    checkpoint = Path(str(origin.parser.get("checkpoint")))
    with contextlib.suppress(OSError, ValueError, KeyError):
        datalist = json.loads(checkpoint.with_name("config.json").read_text())["datalist"]
        real = {"real": datalist} if datalist else {}
        return command("evaluation", checkpoint=checkpoint, output_dir=checkpoint.with_name("evaluation"), **real)
    return None
