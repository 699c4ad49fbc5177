"""Which files of a cache running jobs use, so that others leave them alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


class Lease:
    """Names in a cache that a process uses, in a file that stays locked until the process releases it or ends.

    Where a folder cannot be written to, or its disk knows no locks, nothing is removed from it: no lease is needed.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._handle: int | None = None
        with contextlib.suppress(OSError), locked(folder):
            leased_names(folder)  # removes those of processes that have ended
            self._handle, _ = tempfile.mkstemp(".lease", ".", folder)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            os.write(self._handle, "\n".join(names).encode())

    def __getstate__(self) -> dict[str, None]:
        return {"_handle": None}

    def __del__(self) -> None:
        if self.__dict__.get("_handle") is not None and os is not None:  # it is None when Python ends
            os.close(self._handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time: between looking for a file and leasing it, nobody removes it."""
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def leased_names(folder: Path) -> set[str]:
    """What running processes use; call it while the folder is `locked`."""
    names: set[str] = set()
    for path in folder.glob(".*.lease"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                names.update(file.read().decode().split())
            else:
                path.unlink()
    return names
