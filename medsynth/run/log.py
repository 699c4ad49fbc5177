"""The log of a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm


class _Console(logging.StreamHandler):
    """Writes its lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _RunLog(logging.FileHandler):
    """`train.log`; a full disk is reported once, by what stops the run, not by each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report nothing."""


def log_to(path: Path) -> None:
    """Send the log to `path` from here on, and to the console as logging.conf sets it; without one, to stdout."""
    root = logging.getLogger()
    if not root.handlers:
        root.setLevel(logging.INFO)
        root.addHandler(logging.StreamHandler(sys.stdout))
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            console = _Console(handler.stream)
            console.setLevel(handler.level)
            console.setFormatter(handler.formatter)
            root.addHandler(console)
            root.removeHandler(handler)
        elif isinstance(handler, _RunLog):
            root.removeHandler(handler)
            handler.close()
    log = _RunLog(path, encoding="utf-8")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root.addHandler(log)


def keep_traceback(message: str, error: BaseException) -> None:
    """Write an error to `train.log` alone."""
    trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("medsynth", logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RunLog):
            handler.handle(record)
