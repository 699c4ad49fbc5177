from __future__ import annotations

import itertools
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing.pipelines import Preprocessing


@pytest.fixture
def data(benchmark):
    return benchmark("data")


def test_the_rate_counts_slices_and_not_batches(data, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert data.rate(itertools.repeat({"image": [0] * 7}), 10) == pytest.approx(7, rel=0.2)


def test_both_loaders_are_measured_on_the_same_slices(data, tmp_path):
    for i in range(6):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    entries = [{"image": str(tmp_path / f"{i}.png"), "subject": str(i)} for i in range(6)]
    dataset = SliceDataset(entries, Preprocessing("image", None, None, 8), cache_dir=tmp_path / "cache")
    peer = data.cached_by_monai(dataset, tmp_path)
    assert [item["image"].flip(-1).shape for item in peer] == [dataset[i]["image"].shape for i in range(6)]
    assert [float(item["image"].max()) for item in peer] == pytest.approx([i / 127.5 - 1 for i in range(6)], abs=1e-6)
    pixels, slices, ours, theirs, ratio = map(float, data.speed_row(dataset, 2, 0.2).replace(",", "").split())
    assert (pixels, slices) == (8, 6)
    assert ratio == pytest.approx(ours / theirs, rel=0.01)


def test_a_file_under_several_names_counts_as_several(data, tmp_path):
    (tmp_path / "a.png").write_text("a")
    links = data.linked([str(tmp_path / "a.png")], 3, tmp_path)
    assert len(set(links)) == 3
    assert {Path(link).read_text() for link in links} == {"a"}


def test_preparation_is_timed_on_the_same_volumes(data, tmp_path, monkeypatch):
    volume = np.zeros((24, 30, 26), np.int16)
    volume[4:20, 4:26, 2:24] = np.random.default_rng(0).integers(50, 150, (16, 22, 22))
    nib.save(nib.Nifti1Image(volume, np.diag([2, 2, 2, 1])), tmp_path / "v.nii.gz")
    monkeypatch.setattr(data, "PREPARATIONS", 1)
    row = data.preparation_row(
        [{"image": str(tmp_path / "v.nii.gz"), "subject": "a"}], Preprocessing("mri", None, None, 16)
    )
    pixels, volumes, ours, theirs, ratio, gain = map(float, row.replace("x", "").split())
    assert (pixels, volumes) == (16, 1)
    assert min(ratio, theirs, gain) > 0 <= ours


def test_super_resolution_through_the_plane_is_timed_beside_a_spline_and_its_step_trains(benchmark):
    superres = benchmark("superres")
    network = superres.RRDBNet(**superres.THICK | {"channels": 8, "blocks": 1})
    assert min(superres.volume_seconds(network.eval(), torch.rand(3, 8, 10) * 2 - 1)) > 0
    before = [p.detach().clone() for p in network.parameters()]
    superres.training_step(network.train())()
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
