"""provenance.json: versions, command, data and progress of a run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from medsynth.storage import write_text

if TYPE_CHECKING:
    from medsynth.run.run import Run

_PACKAGES = ("medsynth", "monai", "torch", "pytorch-ignite", "numpy")


class Provenance:
    """Writes provenance.json when an epoch begins and at the end.

    Args:
        datalist: digest of the datalist.
    """

    def __init__(self, run: Run, datalist: str) -> None:
        self.run = run
        self.datalist = datalist

    def attach(self, engine: Engine) -> None:
        """Follow `engine`'s run, on the main process alone."""
        if self.run.is_main:
            engine.add_event_handler(Events.EPOCH_STARTED, self._write)
            engine.add_event_handler(Events.COMPLETED, self._complete)

    def _complete(self, engine: Engine) -> None:
        if engine.state.iteration > self.run.start_iteration:
            self._write(engine)

    @cached_property
    def _source(self) -> dict[str, Any]:
        return {
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
            "git_commit": git_commit(),
            "command": sys.argv,
            "datalist_sha256": self.datalist,
            "seed": self.run.seed,
        }

    def _write(self, engine: Engine) -> None:
        progress = {
            "device": str(engine.state.device),
            "processes": idist.get_world_size(),
            "iterations": engine.state.iteration,
            "images_seen": self.run.images,
            "wall_seconds": round(self.run.seconds, 1),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text(self.run.folder / "provenance.json", json.dumps(self._source | progress, indent=4) + "\n")


def git_commit() -> str | None:
    """Commit of the checkout that medsynth runs from, `-dirty` if it was changed; None for an installed package."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
