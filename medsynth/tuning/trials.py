"""One trial of a study: a run in its own process, monitored by the study.

A process that runs out of memory or hangs affects nothing but itself.
"""

from __future__ import annotations

import csv
import ctypes
import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medsynth.storage import disk_errors, write_text

COMMAND = (sys.executable, "-m", "monai.bundle", "run", "training")
OVERLAY = "tuned.json"
SECONDS_TO_SAVE = 120.0  # for a run that was asked to stop
LOOK_EVERY = 1.0  # seconds
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_MEMORY = ("out of memory", "outofmemory", "memoryerror", "allocate memory", "not enough memory")
_DIVERGED = ("lower the learning rate",)

Row = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `complete`; `pruned` as not worth more time, diverged or out of memory; `failed` for any other reason.
        reason: in one line; empty if complete.
        rows: of metrics.csv.
    """

    state: Literal["complete", "pruned", "failed"]
    reason: str
    rows: list[Row]


def run_trial(
    config: Path,
    values: dict[str, Any],
    folder: Path,
    overrides: Sequence[str],
    is_hopeless: Callable[[Row], bool],
) -> Outcome:
    """Train with `values` in `folder`, or continue a run there.

    Args:
        config: the training configuration.
        values: of its keys; they are saved as an overlay, `tuned.json`.
        overrides: of the command line, the same for all trials.
        is_hopeless: asked for every new row of metrics.csv; if so, the run is stopped.

    Raises:
        KeyboardInterrupt: after the run has saved its state.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / OVERLAY, json.dumps(values, indent=4) + "\n")
    files = f"['{config}','{folder / OVERLAY}']"
    command = [*COMMAND, "--config_file", files, "--output_dir", str(folder), *overrides]
    with disk_errors(folder), (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the study, which passes it on
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        hopeless = _watch(process, folder, is_hopeless)
    except BaseException:
        _stop(process)
        raise
    rows = validations(folder)
    if hopeless is not None:
        return Outcome("pruned", f"worse than the median at epoch {hopeless:g}", rows)
    return _outcome(process.returncode, (folder / "console.log").read_text(errors="replace"), rows)


def validations(folder: Path) -> list[Row]:
    """The complete rows of a run's metrics.csv so far."""
    path = folder / "metrics.csv"
    whole_lines = path.read_text().rpartition("\n")[0] if path.exists() else ""
    rows = csv.DictReader(io.StringIO(whole_lines))
    return [{name: float(value) if value else math.nan for name, value in row.items() if name} for row in rows]


def _watch(process: subprocess.Popen, folder: Path, is_hopeless: Callable[[Row], bool]) -> float | None:
    """Wait for the end; the epoch at which it was stopped as hopeless, else None."""
    seen = 0
    while True:
        ended = process.poll() is not None
        for row in validations(folder)[seen:]:
            seen += 1
            if is_hopeless(row) and not ended:
                _stop(process)
                return row["epoch"]
        if ended:
            return None
        time.sleep(LOOK_EVERY)


def _stop(process: subprocess.Popen) -> None:
    """Ask it to save and end; kill it after `SECONDS_TO_SAVE`."""
    process.terminate()
    try:
        process.wait(SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outcome(status: int, console: str, rows: list[Row]) -> Outcome:
    if status == 0:
        return Outcome("complete", "", rows)
    lines = [line.strip() for line in console.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = (errors or lines or [f"exit status {status}"])[-1]
    tail = "\n".join(lines[-30:]).lower()
    if status == -signal.SIGKILL or any(sign in tail for sign in _MEMORY):
        return Outcome("pruned", f"out of memory or killed: {reason}", rows)
    if any(sign in reason for sign in _DIVERGED):
        return Outcome("pruned", f"diverged: {reason}", rows)
    return Outcome("failed", reason, rows)


def _die_with_parent() -> None:
    """Save and stop when the study is killed; otherwise two runs would write to one folder after its restart."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
