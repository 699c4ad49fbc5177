from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.translation.domain_loader import DomainLoader


class Places:
    """Slices filled with their own index; sources are positive, targets negative. What a loader reads of a dataset."""

    def __init__(self, mask: list[tuple[bool, bool]]) -> None:
        self.mask = np.array(mask)
        indices = np.arange(len(mask))[:, None]
        self.views = {
            "source": np.where(self.mask[:, :1], indices, -1),
            "target": np.where(self.mask[:, 1:], indices + len(mask), -1),
        }
        self.stored_slices, self.contrasts = self, ()
        spaces = SimpleNamespace(bounds=(0.0, 1.0))
        self.spaces = {"source": spaces, "target": spaces}
        self.preprocessing = dict.fromkeys(self.views, SimpleNamespace(modality="mri", neighbours=0))
        self.subjects = [f"subject {index % 8}" for index in range(len(mask))]

    def __len__(self) -> int:
        return len(self.mask)

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """The index over 100, less 1 for targets."""
        values = np.where(rows < len(self), rows / 100, -(rows - len(self)) / 100 - 0.001)
        return torch.from_numpy(values.astype(np.float32))[:, :, None, None].expand(*rows.shape, 4, 4).clone()

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"position": torch.from_numpy(indices / 100).float(), "index": torch.from_numpy(indices)}


BOTH, SOURCE, TARGET = (True, True), (True, False), (False, True)


def first_pass(loader: DomainLoader) -> list[tuple[list[int], list[int], bool]]:
    """Indices of sources and targets, and whether they are pairs, of each batch."""
    stream = iter(loader)
    batches = [next(stream) for _ in range(len(loader))]
    for batch in batches:
        for name in ("source", "target"):
            expected = (batch[name][:, 0, 0, 0].abs() * 100).round()
            assert torch.equal((batch[f"{name}_position"] * 100).round(), expected)
    return [
        tuple((batch[f"{name}_position"] * 100).round().int().tolist() for name in ("source", "target"))
        + (batch["paired"],)
        for batch in batches
    ]


def test_pairs_come_as_pairs_each_once():
    batches = first_pass(DomainLoader(Places([BOTH] * 10), 2))
    assert all(paired and sources == targets for sources, targets, paired in batches)
    assert sorted(index for sources, _, _ in batches for index in sources) == list(range(10))


def test_images_without_partner_come_in_equal_numbers():
    batches = first_pass(DomainLoader(Places([SOURCE] * 8 + [TARGET] * 3), 2))
    assert len(batches) == 4
    assert not any(paired for _, _, paired in batches)
    assert sorted(index for sources, _, _ in batches for index in sources) == list(range(8))
    targets = [index for _, targets, _ in batches for index in targets]
    assert sorted(set(targets)) == [8, 9, 10]
    assert max(map(targets.count, targets)) - min(map(targets.count, targets)) <= 1


def test_a_mixed_list_gives_both_kinds_of_batches():
    loader = DomainLoader(Places([BOTH] * 4 + [SOURCE] * 4), 2)
    batches = first_pass(loader)
    assert loader.has_pairs
    assert loader.has_unpaired
    assert sum(paired for _, _, paired in batches) == 2
    apart = [(sources, targets) for sources, targets, paired in batches if not paired]
    assert sorted(index for sources, _ in apart for index in sources) == [4, 5, 6, 7]
    assert sorted(index for _, targets in apart for index in targets) == [0, 1, 2, 3]  # for want of others


def test_pairs_can_be_taken_apart():
    loader = DomainLoader(Places([BOTH] * 20), 4, paired=False)
    batches = first_pass(loader)
    assert not loader.has_pairs
    assert any(sources != targets for sources, targets, _ in batches)
    assert sorted(index for sources, _, _ in batches for index in sources) == list(range(20))
    targets = [index for _, targets, _ in batches for index in targets]
    assert len(set(targets)) > 10


@pytest.mark.parametrize("mask", [[BOTH] * 200, [SOURCE] * 120 + [TARGET] * 200], ids=["pairs", "unequal"])
def test_slices_drawn_apart_are_of_one_height_where_both_domains_have_it(mask):
    places = Places(mask)
    heights = np.linspace(0, 1, 200)
    if mask[0] == SOURCE:
        heights = np.concatenate([np.linspace(0, 1, 120), heights])
    places.read = lambda rows: torch.zeros(*rows.shape, 4, 4)
    places.facts = lambda indices: {"position": torch.from_numpy(heights[indices]), "index": torch.from_numpy(indices)}
    loader, of_batch = DomainLoader(places, 4, paired=False), []
    stream = iter(loader)
    for _ in range(len(loader)):
        batch = next(stream)
        together = torch.cat([batch["source_position"], batch["target_position"]])
        assert batch["same_position"]
        assert together.max() - together.min() < 0.12
        assert len(set(batch["target_index"].tolist())) == 4
        for name in ("source", "target"):
            of_batch.append(len({places.subjects[index] for index in batch[f"{name}_index"].tolist()}))
    assert np.mean(np.array(of_batch) == 4) > 0.9  # of the eight subjects


def test_heights_that_one_domain_lacks_are_told_of():
    places = Places([SOURCE] * 40 + [TARGET] * 40)
    heights = np.concatenate([np.linspace(0, 0.4, 40), np.linspace(0.6, 1, 40)])
    places.facts = lambda indices: {"position": torch.from_numpy(heights[indices]), "index": torch.from_numpy(indices)}
    loader = DomainLoader(places, 4)
    stream = iter(loader)
    batches = [next(stream) for _ in range(len(loader))]
    assert not any(batch["same_position"] for batch in batches)
    assert sorted(index for batch in batches for index in batch["target_index"].tolist()) == list(range(40, 80))


def test_a_resumed_stream_goes_on_where_it_stopped():
    loader, other = (DomainLoader(Places([BOTH] * 6 + [SOURCE] * 4 + [TARGET] * 4), 2) for _ in range(2))
    stream = iter(loader)
    for _ in range(7):  # into the second pass
        next(stream)
    other.load_state_dict(loader.state_dict())
    assert torch.equal(next(iter(other))["source"], next(stream)["source"])


def test_another_seed_gives_another_order():
    first, second = (first_pass(DomainLoader(Places([BOTH] * 10), 2, seed=seed)) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(("mask", "missing"), [([SOURCE] * 4, "target"), ([TARGET] * 4, "source")])
def test_a_domain_without_images_is_told(mask, missing):
    with pytest.raises(MedsynthError, match=f"no training subject has a {missing} image"):
        DomainLoader(Places(mask), 2)


def test_too_few_slices_for_a_batch_are_told():
    with pytest.raises(MedsynthError, match="don't fill one batch of 8"):
        DomainLoader(Places([BOTH] * 4), 8)
