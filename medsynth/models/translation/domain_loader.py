"""Batches of two domains: pairs, or unpaired slices of both."""

from __future__ import annotations

from collections.abc import Iterator

import ignite.distributed as idist
import numpy as np
import torch

from medsynth.data.datalist.datalist import PAIR
from medsynth.data.datasets.loader import SliceLoader
from medsynth.errors import MedsynthError
from medsynth.models.translation.domains import check_windows
from medsynth.models.translation.pair_slices import BODY, PairDataset

NEAR = 0.02  # difference of slice positions: 3 mm
MOST_APART = 6 * NEAR  # positions in one batch that still count as the same


class DomainLoader(SliceLoader):
    """Serve sources and targets in equal numbers, whatever subjects have.

    A batch holds either pairs, which show the same slice, or unpaired sources and targets: slices of subjects with one
    image, or of those with both if there are no others. All slices of an unpaired batch have about the same slice
    position, if the other domain has it, and are of different subjects, if there are enough. A pass takes each pair
    once, each unpaired slice of the larger domain once, and as many of the other domain. Batches of both kinds come in
    random order, an endless stream in which number i depends on (seed, i) only.

    A batch is a dictionary: `source`, `target` (N, C, H, W), of several contrasts C channels each; `source_position`,
    `target_position`, `source_index`, `target_index` (N,); `paired`, a bool; `same_position`, a bool, whether its
    slices have about the same position; and if the dataset has the view `body`, `source_body` and `target_body`
    (N, 1, H, W).

    Args:
        dataset: of both domains.
        batch_size: slices of each domain per process and step.
        paired: whether pairs are used as such; if not, all sources and targets are drawn unpaired.
        seed: of the order.
        device: where the batches go.

    Raises:
        MedsynthError: a domain without images, or with a window that does not fit them; too few slices for a batch;
            several contrasts that are not to be used as pairs.
    """

    def __init__(
        self,
        dataset: PairDataset,
        batch_size: int,
        paired: bool = True,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if dataset.contrasts and not paired:
            raise MedsynthError("several sources learn from pairs alone: set paired to true, or list one source")
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
        self._positions = dataset.facts(np.arange(len(dataset)))["position"].numpy()
        self._subjects = np.unique(dataset.subjects, return_inverse=True)[1]
        super().__init__(dataset, batch_size, shuffle=True, seed=seed, device=device)

    def __len__(self) -> int:
        return sum(self._counts())

    @property
    def has_pairs(self) -> bool:
        """Whether any batch holds pairs."""
        return self._counts()[0] > 0

    @property
    def has_unpaired(self) -> bool:
        """Whether any batch is unpaired."""
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
        """Batches of pairs and unpaired batches, per pass."""
        return len(self._pairs) // self._global_size(), max(map(len, self._apart)) // self._global_size()

    def _pass(self, turn: int) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """Sources, targets and whether they are pairs, of each batch."""
        random, size = np.random.default_rng([self.seed, turn]), self._global_size()
        of_pairs, apart = self._counts()
        pairs = random.permutation(self._pairs)[: of_pairs * size].reshape(of_pairs, size)
        batches = [(both, both, True) for both in pairs]
        batches += [(source, target, False) for source, target in self._drawn_apart(random, apart, size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _drawn_apart(self, random: np.random.Generator, count: int, size: int) -> Iterator[list[np.ndarray]]:
        """`count` times `size` sources and as many targets: the larger domain by slice position, the other to match.

        Of the smaller domain, slices that were used least often come first.
        """
        larger = int(len(self._apart[1]) > len(self._apart[0]))
        through = random.permutation(self._apart[larger])[: count * size]
        shifts = random.uniform(-NEAR / 2, NEAR / 2, self._subjects.max() + 1)  # per subject: slices stay interleaved
        order = np.argsort(self._positions[through] + shifts[self._subjects[through]], kind="stable")
        others = random.permutation(self._apart[1 - larger])
        others = others[np.argsort(self._positions[others], kind="stable")]
        positions = self._positions[others]
        used = np.zeros(len(others), np.int64)
        for slices in through[order].reshape(count, size):
            middle = self._positions[slices].mean()
            near = np.arange(len(others))
            for reach in (2 * NEAR, NEAR):
                low, high = np.searchsorted(positions, [middle - reach, middle + reach])
                near = np.arange(low, high) if high - low >= size else near
            near = near[np.lexsort((random.random(len(near)), used[near]))]
            near = near[used[near] <= used[near[:size][-1]]]
            chosen = np.resize(_different_first(near, self._subjects[others[near]]), size)
            used[chosen] += 1
            yield [slices, others[chosen]][:: -1 if larger else 1]

    def _load(self, sources: np.ndarray, targets: np.ndarray, paired: bool) -> dict[str, torch.Tensor | bool]:
        batch: dict[str, torch.Tensor | bool] = {}
        for name, chosen in zip(PAIR, (sources, targets), strict=True):
            mine = np.array_split(chosen, idist.get_world_size())[idist.get_rank()]
            batch[name] = self._images(self.dataset.views[name][mine])
            if BODY in self.dataset.views:
                batch[f"{name}_body"] = self._images(self.dataset.views[BODY][mine])
            facts = self.dataset.facts(mine)
            batch |= {
                f"{name}_{fact}": facts[fact].to(self.device, non_blocking=True) for fact in ("position", "index")
            }
        positions = self._positions[np.concatenate([sources, targets])]
        return batch | {"paired": paired, "same_position": bool(np.ptp(positions) < MOST_APART)}


def _different_first(items: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The first item of each kind, then the others, both in their order."""
    repeated = np.ones(len(items), bool)
    repeated[np.unique(kinds, return_index=True)[1]] = False
    return items[np.argsort(repeated, kind="stable")]
