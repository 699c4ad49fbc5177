"""Many arrays on disk, read as one."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medsynth.errors import MedsynthError

MOST_OPEN_FILES = 256  # of the 1,024 that a process may usually have


class SliceStack:
    """Arrays (n, H, W) on disk as one array (N, H, W), of which only the requested slices are read.

    Reads leave their pages to the system's file cache, so a process stays small however large the set is. A memory
    map would not: each page fault maps many times what was read, and the process grows to the size of the set.

    Args:
        paths: of .npy files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        maps = [np.load(path, mmap_mode="r") for path in paths]
        self._paths, self._offsets = [str(path) for path in paths], [file.offset for file in maps]
        self._starts = np.cumsum([0, *map(len, maps)])
        self._rows = np.arange(self._starts[-1])
        self._open: dict[int, int] = {}
        self._slice_shape = maps[0].shape[1:]
        self.dtype = maps[0].dtype
        self.shape = (*self._rows.shape, *self._slice_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """A copy of the slice or slices of that index, as in numpy along the first axis."""
        chosen = self._rows[index]
        return self._read(chosen.reshape(-1)).reshape(*chosen.shape, *self._slice_shape)

    def of(self, rows: np.ndarray) -> SliceStack:
        """A stack of these of its slices; rows of any shape, (N, C) make (N, C, H, W)."""
        other = copy.copy(self)
        other._rows = self._rows[rows]
        other.shape = (*other._rows.shape, *self._slice_shape)
        return other

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """float32 slices of these indices, of any shape; -1, which is air, for indices below 0."""
        slices = torch.from_numpy(self[np.maximum(rows, 0)]).float()
        slices[torch.from_numpy(rows < 0)] = -1
        return slices

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        for handle in self.__dict__.get("_open", {}).values():
            if os is not None:  # it is None when Python ends
                os.close(handle)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self._slice_shape), self.dtype)
        size = math.prod(self._slice_shape) * self.dtype.itemsize
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = indices - self._starts[parts]
        for row, (part, offset) in enumerate(zip(parts.tolist(), offsets.tolist(), strict=True)):
            if os.preadv(self._handle(part), [out[row]], self._offsets[part] + offset * size) < size:
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
                    f"{self._paths[part]} was removed from the cache: start again, and it is made anew"
                ) from error
        return self._open[part]
