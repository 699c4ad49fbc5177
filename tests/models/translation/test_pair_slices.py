from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.translation.pair_slices import PairDataset

MRI = Preprocessing("mri", (0, 400), None, 32)
CT = Preprocessing("ct", "full", None, 32)


@pytest.fixture
def pair(tmp_path, head, save):
    """A subject with a source of one orientation and a target of another one, of the same anatomy and grid."""

    def write(name, keys=("source", "target"), seed=0):
        mri = head(seed=seed)
        ct = np.where(mri > 0, mri - 100, -1000).astype(np.int16)
        paths = {
            "source": save(tmp_path / f"{name}_mr.nii.gz", mri, orientation="PSR"),
            "target": save(tmp_path / f"{name}_ct.nii.gz", ct, orientation="LAS"),
        }
        return {key: str(paths[key]) for key in keys} | {"subject": name}

    return write


def test_source_and_target_show_the_same_place(tmp_path, pair):
    entry = pair("a")
    dataset = PairDataset([entry], MRI, CT, cache_dir=tmp_path)
    alone = SliceDataset([{"image": entry["source"], "subject": "a"}], MRI, cache_dir=tmp_path)
    assert len(dataset) == len(alone)
    item = dataset[len(dataset) // 2]
    assert item["mask"].tolist() == [True, True]
    assert torch.equal(item["source"], alone[len(dataset) // 2]["image"])
    inside = item["source"] > -0.9
    mri, ct = (item["source"][inside] + 1) * 200, item["target"][inside] * 1000
    torch.testing.assert_close(ct, mri - 100, atol=1, rtol=0)
    assert (item["target"][~inside] == -1).all()


def test_a_target_on_another_grid_is_brought_onto_the_sources(tmp_path, pair, head, save):
    entry = pair("a")
    ct = np.where(head() > 0, head() - 100, -1000).astype(np.int16)
    finer = np.pad(ct.repeat(2, 0).repeat(2, 1), ((3, 3), (0, 0), (0, 0)), constant_values=-1000)
    affine = np.diag([1.0, 1, 2, 1])
    affine[:2, 3] = -0.5 - 3, -0.5
    nib.save(nib.Nifti1Image(finer, affine), tmp_path / "finer.nii.gz")
    expected = PairDataset([entry], MRI, CT, cache_dir=tmp_path)
    found = PairDataset([entry | {"target": str(tmp_path / "finer.nii.gz")}], MRI, CT, cache_dir=tmp_path)
    for index in (3, len(found) // 2):
        assert torch.equal(found[index]["source"], expected[index]["source"])
        middle = (found[index]["target"] - expected[index]["target"]).abs().median()
        assert middle < 0.02


def test_what_is_not_there_is_air_and_masked(tmp_path, pair):
    entries = [pair("a"), pair("b", ["source"], 1), pair("c", ["target"], 2)]
    dataset = PairDataset(entries, MRI, CT, cache_dir=tmp_path)
    masks = {name: {tuple(m) for m, s in zip(dataset.mask.tolist(), dataset.subjects, strict=True) if s == name}
             for name in "abc"}  # fmt: skip
    assert masks == {"a": {(True, True)}, "b": {(True, False)}, "c": {(False, True)}}
    item = dataset[dataset.subjects.index("b") + 5]
    assert (item["target"] == -1).all()
    assert item["source"].max() > -0.5
    alone = SliceDataset([{"image": entries[2]["target"], "subject": "c"}], CT, cache_dir=tmp_path)
    first = dataset.subjects.index("c")
    assert torch.equal(dataset[first + 4]["target"], alone[4]["image"])
    assert (dataset[first + 4]["source"] == -1).all()


def test_batches_hold_both_mirrored_together(tmp_path, pair):
    dataset = PairDataset([pair("a"), pair("b", ["target"], 1)], MRI, CT, cache_dir=tmp_path)
    for batch in [batch for batch, _ in zip(SliceLoader(dataset, 8, flip=True), range(4), strict=False)]:
        for row, index in enumerate(batch["index"].tolist()):
            item = dataset[index]
            mirrored = not torch.equal(batch["target"][row], item["target"])
            for key in ("source", "target"):
                assert torch.equal(batch[key][row], item[key].flip(-1) if mirrored else item[key])
            assert torch.equal(batch["mask"][row], item["mask"])


def test_neighbours_and_planes_work_for_pairs(tmp_path, pair):
    source = Preprocessing("mri", (0, 400), None, 32, plane="coronal", neighbours=1)
    dataset = PairDataset([pair("a")], source, CT, cache_dir=tmp_path)
    item, onward = dataset[10], dataset[11]
    for key in ("source", "target"):
        assert item[key].shape == (3, 32, 32)
        assert torch.equal(item[key][2], onward[key][1])
    assert dataset.preprocessing["target"].plane == "coronal"
    assert dataset.preprocessing["target"].window == "full"


def test_a_replaced_target_is_prepared_anew(tmp_path, pair, save, head):
    entry = pair("a")
    before = PairDataset([entry], MRI, CT, cache_dir=tmp_path)[10]
    other = np.where(head() > 0, 40, -1000).astype(np.int16)
    save(tmp_path / "a_ct.nii.gz", other, orientation="LAS")
    after = PairDataset([entry], MRI, CT, cache_dir=tmp_path)[10]
    assert torch.equal(before["source"], after["source"])
    assert not torch.equal(before["target"], after["target"])


def test_a_pair_with_a_bad_half_is_named_and_left_out(tmp_path, pair, caplog):
    entries = [pair(name, seed=number) for number, name in enumerate("ab")]
    (tmp_path / "b_ct.nii.gz").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        dataset = PairDataset(entries, MRI, CT, cache_dir=tmp_path, max_bad_fraction=0.5)
    assert set(dataset.subjects) == {"a"}
    assert "b_ct.nii.gz cannot be read" in caplog.text
    with pytest.raises(MedsynthError, match="1 of 2 images cannot be used"):
        PairDataset(entries, MRI, CT, cache_dir=tmp_path)


def test_a_volume_and_a_picture_are_no_pair(pair):
    with pytest.raises(MedsynthError, match="pictures can be translated to pictures alone"):
        PairDataset([pair("a")], MRI, Preprocessing("image", None, None, 32))


def test_values_stand_for_the_median_bounds_of_a_domain(tmp_path, pair, head, save):
    entries = [pair(name, ["source"], seed) for seed, name in enumerate("abc")]
    own = Preprocessing("mri", None, None, 32)
    bounds = [PairDataset([entry], own, CT, cache_dir=tmp_path).spaces["source"].bounds for entry in entries]
    dataset = PairDataset([*entries, pair("d", ["target"])], own, CT, cache_dir=tmp_path)
    assert dataset.spaces["source"].bounds == pytest.approx(np.median(bounds, axis=0))
    assert (dataset.spaces["target"].modality, dataset.spaces["target"].bounds) == ("ct", (-1000, 1000))
    assert PairDataset(entries, own, CT, cache_dir=tmp_path).spaces.keys() == {"source"}


def test_pictures_of_different_sizes_make_a_pair_each_scaled_to_fit(tmp_path):
    Image.fromarray(np.full((20, 40), 255, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((37, 37), 51, np.uint8)).save(tmp_path / "b.png")
    entry = {"source": str(tmp_path / "a.png"), "target": str(tmp_path / "b.png"), "subject": "a", "position": 0.5}
    picture = Preprocessing("image", None, None, 16)
    (item,) = PairDataset([entry], picture, picture, cache_dir=tmp_path)
    assert item["mask"].tolist() == [True, True]
    assert item["position"] == 0.5
    assert item["source"][0, 4:12].min() > 0.999
    assert (item["source"][0, :4] == -1).all()
    torch.testing.assert_close(item["target"], torch.full((1, 16, 16), -0.6))


def test_pictures_cannot_be_translated_to_volumes():
    with pytest.raises(MedsynthError, match="modality image and the targets of mri"):
        PairDataset([{"source": "a.png", "target": "b.nii"}], Preprocessing("image", None, None, 16), MRI)
