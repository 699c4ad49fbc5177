from __future__ import annotations

from itertools import islice

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError


@pytest.fixture
def dataset(study, tmp_path):
    return SliceDataset(study, Preprocessing("mri", None, None, 32), classes=("AD", "NC"), cache_dir=tmp_path)


def same(first, second):
    return all(torch.equal(first[key].nan_to_num(9), second[key].nan_to_num(9)) for key in first)


def test_a_batch_holds_the_slices_of_its_indices(dataset):
    batch = next(iter(SliceLoader(dataset, 8)))
    assert batch["image"].shape == (8, 1, 32, 32)
    assert batch["image"].dtype == torch.float32
    for row, index in enumerate(batch["index"].tolist()):
        assert all(torch.equal(batch[key][row], dataset[index][key]) for key in batch)


def test_a_batch_holds_the_covariates_of_its_slices(study, tmp_path):
    for number, entry in enumerate(study[1:], start=1):
        entry["covariates"] = {"age": number}
    dataset = SliceDataset(study, Preprocessing("mri", None, None, 32), cache_dir=tmp_path, covariates=["age"])
    (batch,) = SliceLoader(dataset, len(dataset), shuffle=False)
    expected = [int(dataset.subjects[index][1:]) for index in batch["index"]]
    assert batch["covariates"].nan_to_num(0)[:, 0].tolist() == expected
    assert batch["covariates"].isnan().any()


def test_a_pass_shows_every_slice_once_and_the_next_in_another_order(dataset):
    loader = SliceLoader(dataset, 8)
    stream = iter(loader)
    first, second = (torch.cat([b["index"] for b in islice(stream, len(loader))]).tolist() for _ in range(2))
    assert len(set(first)) == len(first) == len(dataset) // 8 * 8
    assert len(set(second)) == len(second)
    assert first != second


def test_a_batch_depends_on_seed_and_number_only(dataset):
    straight = list(islice(SliceLoader(dataset, 8, seed=3, flip=True), 100))
    other = list(islice(SliceLoader(dataset, 8, seed=4, flip=True), 100))
    assert len(SliceLoader(dataset, 8)) < 50
    for start in (0, 7, 99):
        loader = SliceLoader(dataset, 8, seed=3, flip=True)
        loader.load_state_dict({"iteration": start})
        assert same(next(iter(loader)), straight[start])
    assert not same(straight[0], other[0])


def test_a_stopped_stream_continues_where_it_stopped(dataset):
    straight = list(islice(SliceLoader(dataset, 8, flip=True), 9))
    stopped = SliceLoader(dataset, 8, flip=True)
    list(islice(stopped, 5))
    assert stopped.state_dict() == {"iteration": 5}
    resumed = SliceLoader(dataset, 8, flip=True)
    resumed.load_state_dict(stopped.state_dict())
    assert all(same(a, b) for a, b in zip(islice(resumed, 4), straight[5:], strict=True))


def test_half_of_the_images_are_mirrored_left_and_right(dataset):
    loader = SliceLoader(dataset, 8, flip=True)
    mirrored = []
    for batch in islice(loader, len(loader)):
        plain = dataset.read(batch["index"].numpy()).float()
        flips = [not torch.equal(image[0], original) for image, original in zip(batch["image"], plain, strict=True)]
        for image, original, flipped in zip(batch["image"], plain, flips, strict=True):
            assert torch.equal(image[0].flip(-1) if flipped else image[0], original)
        mirrored += flips
    assert 0.3 < np.mean(mirrored) < 0.7


def test_unshuffled_is_one_pass_in_order_with_the_rest_at_its_end(dataset):
    loader = SliceLoader(dataset, 7, shuffle=False)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == -(-len(dataset) // 7)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(len(dataset)))


def test_processes_share_out_the_batch_that_one_would_take(dataset, monkeypatch):
    alone = [batch["index"].tolist() for batch in islice(SliceLoader(dataset, 8), 20)]
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        shares.append([batch["index"].tolist() for batch in islice(SliceLoader(dataset, 4), 20)])
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_no_process_waits_at_the_end_of_a_pass(tmp_path, monkeypatch):
    for i in range(5):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    entries = [{"image": str(tmp_path / f"{i}.png"), "subject": str(i)} for i in range(5)]
    rest_of_one = SliceDataset(entries, Preprocessing("image", None, None, 8), cache_dir=tmp_path)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        loader = SliceLoader(rest_of_one, 2, drop_last=False)
        assert [len(batch["index"]) for batch in islice(loader, len(loader))] == [2, 1]


def test_every_process_gets_the_whole_pass_in_order(dataset, monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    indices = torch.cat([batch["index"] for batch in SliceLoader(dataset, 7, shuffle=False)])
    assert indices.tolist() == list(range(len(dataset)))


def test_a_set_that_fills_no_batch_is_refused(dataset):
    with pytest.raises(MedsynthError, match=f"{len(dataset)} slices don't fill one batch of 9999"):
        SliceLoader(dataset, 9999)
    assert len(SliceLoader(dataset, 9999, drop_last=False)) == 1
    with pytest.raises(MedsynthError, match="batch_size is 0"):
        SliceLoader(dataset, 0)


def test_a_pass_in_order_can_be_cut_to_some_slices_spread_over_the_set(dataset):
    batches = list(SliceLoader(dataset, 4, shuffle=False, most=6))
    index = torch.cat([batch["index"] for batch in batches])
    assert len(batches) == 2
    assert index.tolist() == np.linspace(0, len(dataset) - 1, 6).astype(int).tolist()
