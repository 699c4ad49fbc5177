"""Batches of two domains: pairs, or a slice of each without relation."""

from __future__ import annotations

from collections.abc import Iterator

import ignite.distributed as idist
import numpy as np
import torch

from medsynth.data.datalist import PAIR
from medsynth.data.domains import check_windows
from medsynth.data.loader import SliceLoader
from medsynth.data.pair_slices import PairDataset
from medsynth.errors import MedsynthError


class DomainLoader(SliceLoader):
    """Serve sources and targets in equal numbers, whatever subjects have.

    A batch holds either pairs, which show the same place, or sources and targets drawn apart: slices of subjects with
    one image, and of those with both where no others are. A pass takes each pair once; then each of the images without
    partner, those of the smaller domain repeatedly. Batches of both kinds come in random order, an endless stream in
    which number i depends on (seed, i) only.

    A batch is a dictionary: `source`, `target` (N, C, H, W); `source_position`, `target_position`, `source_index`,
    `target_index` (N,); `paired`, a bool.

    Args:
        dataset: of both domains.
        batch_size: slices of each domain a process and step.
        paired: whether pairs are used as such; if not, all sources and targets are drawn apart.
        seed: of the order.
        device: where the batches go.

    Raises:
        MedsynthError: a domain without images, or of a window that does not fit them; too few slices for a batch.
    """

    def __init__(
        self,
        dataset: PairDataset,
        batch_size: int,
        paired: bool = True,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        both = dataset.mask.all(axis=1) & paired
        self._pairs = np.flatnonzero(both)
        self._apart = [np.flatnonzero(has & ~both) for has in dataset.mask.T]
        if any(len(slices) for slices in self._apart):
            self._apart = [
                slices if len(slices) else np.flatnonzero(has)
                for slices, has in zip(self._apart, dataset.mask.T, strict=True)
            ]
        for name, has in zip(PAIR, dataset.mask.T, strict=True):
            if not has.any():
                raise MedsynthError(
                    f"no training subject has a {name} image: list some of both domains, in pairs or not, "
                    "with tools/make_datalist.py --source ... --target ..."
                )
        check_windows(dataset)
        super().__init__(dataset, batch_size, shuffle=True, seed=seed, device=device)

    def __len__(self) -> int:
        return sum(self._counts())

    @property
    def has_pairs(self) -> bool:
        """Whether any batch holds pairs."""
        return self._counts()[0] > 0

    @property
    def has_unpaired(self) -> bool:
        """Whether any batch holds images drawn apart."""
        return self._counts()[1] > 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor | bool]]:
        drawn = -1
        while True:
            turn, number = divmod(self.iteration, len(self))
            if turn != drawn:
                batches, drawn = self._pass(turn), turn
            self.iteration += 1
            yield self._load(*batches[number])

    def _counts(self) -> tuple[int, int]:
        """Batches of pairs and of images drawn apart, a pass."""
        return len(self._pairs) // self._global_size(), max(map(len, self._apart)) // self._global_size()

    def _pass(self, turn: int) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """Sources, targets and whether they are pairs, of each batch."""
        random, size = np.random.default_rng([self.seed, turn]), self._global_size()
        of_pairs, apart = self._counts()
        pairs = random.permutation(self._pairs)[: of_pairs * size].reshape(of_pairs, size)
        sources, targets = (_drawn(random, slices, apart * size).reshape(apart, size) for slices in self._apart)
        batches = [(both, both, True) for both in pairs]
        batches += [(source, target, False) for source, target in zip(sources, targets, strict=True)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _load(self, sources: np.ndarray, targets: np.ndarray, paired: bool) -> dict[str, torch.Tensor | bool]:
        batch: dict[str, torch.Tensor | bool] = {}
        for name, chosen in zip(PAIR, (sources, targets), strict=True):
            mine = np.array_split(chosen, idist.get_world_size())[idist.get_rank()]
            batch[name] = self._images(self.dataset.views[name][mine])
            facts = self.dataset.facts(mine)
            batch |= {
                f"{name}_{fact}": facts[fact].to(self.device, non_blocking=True) for fact in ("position", "index")
            }
        return batch | {"paired": paired}


def _drawn(random: np.random.Generator, slices: np.ndarray, count: int) -> np.ndarray:
    """`count` of the slices in random order, each as often as any other but for one."""
    turns = -(-count // max(1, len(slices)))
    return np.concatenate([random.permutation(slices) for _ in range(turns)] or [slices])[:count]
