"""The log of a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from medsynth.errors import as_line


class _Console(logging.StreamHandler):
    """Writes its lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _RunLog(logging.FileHandler):
    """`train.log`, written from `begin` on, with what was said before.

    A full disk is reported once, by what stops the run, not by each line.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._waiting: list[logging.LogRecord] | None = []

    def begin(self) -> None:
        """Make the folder, if need be, and write what waits."""
        waiting, self._waiting = self._waiting or [], None
        if waiting:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        for record in waiting:
            self.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it."""
        if self._waiting is None:
            super().emit(record)
        else:
            self._waiting.append(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report nothing."""


def log_to(path: Path) -> None:
    """Send the log to `path` once `write_log` is called, and to the console as logging.conf sets it.

    Without a logging.conf, to stdout.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.setLevel(logging.INFO)
        root.addHandler(logging.StreamHandler(sys.stdout))
    write_above_bars()
    for handler in root.handlers[:]:
        if isinstance(handler, _RunLog):
            root.removeHandler(handler)
            handler.close()
    log = _RunLog(path)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root.addHandler(log)


def write_above_bars() -> None:
    """Let the console's handlers write above progress bars: MONAI takes no class of ours in logging.conf."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            console = _Console(handler.stream)
            console.setLevel(handler.level)
            console.setFormatter(handler.formatter)
            root.addHandler(console)
            root.removeHandler(handler)


def write_log() -> None:
    """Write `train.log` from here on, beginning with all that was said since `log_to`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RunLog):
            handler.begin()


def keep_traceback(message: str, error: BaseException) -> None:
    """Write an error to `train.log` alone; unless it is a mistake of the user, which leaves no new folder."""
    if as_line(error) is None:
        write_log()
    trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("medsynth", logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RunLog):
            handler.handle(record)
