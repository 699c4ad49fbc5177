"""Prepared slices on disk: each file is there whole or not at all, and never stale."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medsynth.errors import MedsynthError

MOST_OPEN_FILES = 256  # of the 1,024 that a process may usually have
STALE_SECONDS = 24 * 3600  # after which a half written file was left by a process that is gone


def default_folder() -> Path:
    """$MEDSYNTH_CACHE, or ~/.cache/medsynth."""
    return Path(os.environ.get("MEDSYNTH_CACHE") or Path.home() / ".cache" / "medsynth")


def identity(path: str | os.PathLike) -> list[Any]:
    """What changes when a file is changed or replaced, even by one of equal size and older date."""
    status = Path(path).stat()
    return [str(Path(path).absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def key(*parts: Any) -> str:
    """Name of the cache file that stands for these plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Cache:
    """A folder of arrays, each with a record of plain values beside it."""

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = Path(folder or default_folder())
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def path(self, name: str) -> Path:
        """Where the array of that name lies."""
        return self.folder / f"{name}.npy"

    def find(self, name: str) -> dict[str, Any] | None:
        """The record of an array that is there as it was written; None if it has to be made."""
        try:
            record = json.loads(self.path(name).with_suffix(".json").read_text())
            return record if record["bytes"] == self.path(name).stat().st_size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store(self, name: str, array: np.ndarray, record: dict[str, Any]) -> dict[str, Any]:
        """Write an array, then its record: only both together count. Returns the record as `find` does."""
        with self._writing():
            with self._beside(self.path(name)) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
                record = record | {"bytes": file.tell()}
            with self._beside(self.path(name).with_suffix(".json")) as file:
                file.write(json.dumps(record).encode())
        return record

    @contextlib.contextmanager
    def _beside(self, path: Path) -> Iterator[BinaryIO]:
        """A new file that takes its name when it is complete; each process has its own until then."""
        handle, name = tempfile.mkstemp(".tmp", f".{path.name}.", self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MedsynthError(
                f"prepared slices cannot be written to {self.folder} ({error.strerror or error}): "
                "free space there, or name another folder in MEDSYNTH_CACHE"
            ) from error


class SliceStack:
    """Arrays (n, ...) on disk as one array (N, ...), of which only what is asked for is read.

    Reads leave their pages to the system's file cache, so a process stays small however large the set is. A memory
    map would not: each page fault maps many times what was read, and the process grows to the size of the set.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        maps = [np.load(path, mmap_mode="r") for path in paths]
        self._paths, self._offsets = [str(path) for path in paths], [file.offset for file in maps]
        self._starts = np.cumsum([0, *map(len, maps)])
        self._open: dict[int, int] = {}
        self.dtype = maps[0].dtype
        self.shape = (int(self._starts[-1]), *maps[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """A copy of the slice or slices of that index, as in numpy along the first axis."""
        chosen = np.arange(len(self))[index]
        return self._read(np.atleast_1d(chosen)).reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        for handle in self.__dict__.get("_open", {}).values():
            os.close(handle)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        places = indices - self._starts[parts]
        for row, (part, place) in enumerate(zip(parts.tolist(), places.tolist(), strict=True)):
            if os.preadv(self._handle(part), [out[row]], self._offsets[part] + place * size) < size:
                raise MedsynthError(f"{self._paths[part]} was cut short while in use: start again, and it is made anew")
        return out

    def _handle(self, part: int) -> int:
        """An open file; the one opened first is closed where there would be too many."""
        if part not in self._open:
            if len(self._open) >= MOST_OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            try:
                self._open[part] = os.open(self._paths[part], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise MedsynthError(
                    f"{self._paths[part]} is gone from the cache: start again, and it is made anew"
                ) from error
        return self._open[part]
