"""Prepared slices on disk: each file is complete or absent, and never stale."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsynth.data.preprocessing.lease import Lease, leased_names, locked
from medsynth.errors import MedsynthError

CHUNK_BYTES = 2**20
STALE_SECONDS = 24 * 3600  # after which an incomplete file counts as left by a process that has ended


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


def limit_bytes() -> float:
    """$MEDSYNTH_CACHE_GB, what a cache may take; infinite if it is not set."""
    text = os.environ.get("MEDSYNTH_CACHE_GB") or "inf"
    with contextlib.suppress(ValueError):
        if (gigabytes := float(text)) > 0:
            return gigabytes * 1e9
    raise MedsynthError(f"MEDSYNTH_CACHE_GB is {text!r}: give the gigabytes that prepared slices may take, such as 20")


class Cache:
    """A folder of records of plain values, most with an array beside them.

    Args:
        folder: None: $MEDSYNTH_CACHE or ~/.cache/medsynth.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder, self.limit = Path(folder or default_folder()), limit_bytes()
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def path(self, name: str) -> Path:
        """Path of the array of that name."""
        return self.folder / f"{name}.npy"

    def find(self, name: str) -> dict[str, Any] | None:
        """A record that exists with its array, both as they were written; None if it has to be made."""
        record_path = self.path(name).with_suffix(".json")
        try:
            content = json.loads(record_path.read_text())
            record = content["record"]
            if content["checksum"] != _checksum([json.dumps(record).encode()]):
                return None
            if "checksum" in record and record["checksum"] != _checksum(_chunks(self.path(name))):
                return None
        except (OSError, ValueError, TypeError, KeyError):
            return None
        with contextlib.suppress(OSError):  # another user's folder may be readable only
            os.utime(record_path)  # used now
        return record

    def store(self, name: str, record: dict[str, Any], array: np.ndarray | None = None) -> dict[str, Any]:
        """Write an array, then its record: only both together count. Returns the record as `find` does."""
        self._make_room(0 if array is None else array.nbytes)
        with self._writing():
            if array is not None:
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
                parts = [header.getvalue(), memoryview(np.ascontiguousarray(array)).cast("B")]
                record = record | {"checksum": _checksum(parts)}
                self._write(self.path(name), parts)
            content = {"record": record, "checksum": _checksum([json.dumps(record).encode()])}
            self._write(self.path(name).with_suffix(".json"), [json.dumps(content).encode()])
        return record

    def lease(self, names: Iterable[str]) -> Lease:
        """Keep other jobs from removing what has these names, present or future, as long as the lease lives."""
        return Lease(self.folder, names)

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used files that are not leased, until so many more bytes are within the limit."""
        if self.limit == math.inf:
            return
        with contextlib.suppress(OSError), locked(self.folder):
            sizes: dict[str, int] = defaultdict(int)
            used: dict[str, float] = {}
            for path in [*self.folder.glob("*.npy"), *self.folder.glob("*.json")]:  # a record's time is its last use
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    sizes[path.stem] += status.st_size
                    used[path.stem] = status.st_mtime
            excess = sum(sizes.values()) + needed - self.limit
            leased = leased_names(self.folder)
            for name in sorted(used.keys() - leased, key=used.get):
                if excess <= 0:
                    break
                for ending in (".json", ".npy"):
                    self.path(name).with_suffix(ending).unlink(missing_ok=True)
                excess -= sizes[name]

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        """A new file that gets its name when it is complete; each process has its own until then.

        Not forced onto the disk: the checksum detects what a power failure may leave.
        """
        handle, beside = tempfile.mkstemp(".tmp", f".{path.name}.", self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
            Path(beside).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(beside).unlink()
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


def _checksum(parts: Iterable[bytes | memoryview]) -> int:
    """CRC-32 of bytes that follow each other."""
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
