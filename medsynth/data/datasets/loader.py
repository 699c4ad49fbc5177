"""Batches of slices, fast, shuffled, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch

from medsynth.data.datasets.slices import PreparedSlices
from medsynth.errors import MedsynthError, check_whole

CHUNK = 1024  # slices copied to the device at a time


class SliceLoader:
    """Serve a set of slices in batches: dictionaries of its items.

    Shuffled, it is an endless stream: batch number i depends on (seed, i) only, each pass over the set has an order and
    flips of its own, and every iterator continues from `iteration`. With several processes, each takes its share of a
    batch of `batch_size` times their number. Otherwise it is one pass in order, for each process the whole: measures of
    a validation need all images.
    On a GPU, the slices are held there where they fit; on the CPU they are read from the file cache.

    Args:
        dataset: a `SliceDataset` or `PairDataset`.
        batch_size: slices a process and step.
        shuffle: whether to stream in random order.
        seed: of order and flips.
        device: where the batches go.
        flip: mirror left and right, each image with probability 1/2.
        drop_last: leave out a last batch that would be smaller (when shuffling).
        most: slices in the one pass in order, evenly spread over the set; None: all.
    """

    def __init__(
        self,
        dataset: PreparedSlices,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        device: str | torch.device = "cpu",
        flip: bool = False,
        drop_last: bool = True,
        most: int | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.device, self.flip, self.drop_last = torch.device(device), flip, drop_last and shuffle
        self.iteration = 0
        count = len(dataset) if shuffle or most is None else min(most, len(dataset))
        self._served = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
        self._held = _hold(dataset, self.device)
        if not len(self):
            raise MedsynthError(
                f"{len(dataset)} slices don't fill one batch of {self._global_size()}: lower batch_size or add images"
            )

    def __len__(self) -> int:
        """Batches a pass."""
        full, rest = divmod(len(self._served), self._global_size())
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if not self.shuffle:
            yield from (self._batch(self._served, None, number) for number in range(len(self)))
            return
        drawn = -1
        while True:
            turn, number = divmod(self.iteration, len(self))
            if turn != drawn:
                random, drawn = np.random.default_rng([self.seed, turn]), turn
                order, coins = random.permutation(len(self.dataset)), random.random(len(self.dataset)) < 0.5
            self.iteration += 1
            yield self._batch(order, coins if self.flip else None, number)

    def state_dict(self) -> dict[str, int]:
        """How many batches have been handed out."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with the next iterator."""
        self.iteration = int(state["iteration"])

    def _global_size(self) -> int:
        return self.batch_size * (idist.get_world_size() if self.shuffle else 1)

    def _batch(self, order: np.ndarray, coins: np.ndarray | None, number: int) -> dict[str, torch.Tensor]:
        size = self._global_size()
        chosen = order[number * size : (number + 1) * size]
        indices = chosen
        if self.shuffle:
            share = np.array_split(chosen, idist.get_world_size())[idist.get_rank()]
            indices = share if len(share) else chosen[-1:]  # a process without an image would block the others
        batch = self.dataset.facts(indices)
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        views = {name: self._images(rows[indices]) for name, rows in self.dataset.views.items()}
        if coins is not None:
            mirrored = torch.from_numpy(np.flatnonzero(coins[indices])).to(self.device)
            for images in views.values():
                images[mirrored] = images[mirrored].flip(-1)
        return views | batch

    def _images(self, rows: np.ndarray) -> torch.Tensor:
        """(N, C, H, W) float32 of these rows of the stored slices, on the device; negative rows are air."""
        if self._held is None:
            return self.dataset.stored_slices.read(rows).to(self.device)
        rows = torch.from_numpy(rows).to(self.device)
        images = self._held[rows.clamp(min=0)].float()
        images[rows < 0] = -1
        return images


def _hold(dataset: PreparedSlices, device: torch.device) -> torch.Tensor | None:
    """All slices on the GPU, if they take no more than half of its free memory."""
    if device.type != "cuda":
        return None
    slices = dataset.stored_slices
    first = torch.from_numpy(slices[:1])
    if first.nbytes * len(slices) > torch.cuda.mem_get_info(device)[0] / 2:
        return None
    held = torch.empty((len(slices), *first.shape[1:]), dtype=first.dtype, device=device)
    for start in range(0, len(slices), CHUNK):
        held[start : start + CHUNK] = torch.from_numpy(slices[start : start + CHUNK])
    return held
