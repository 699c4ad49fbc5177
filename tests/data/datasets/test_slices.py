from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing import preparation
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError

MRI = Preprocessing("mri", None, None, 32)


@pytest.fixture
def prepared_paths(monkeypatch):
    """The paths that are prepared rather than found in the cache."""
    paths = []
    prepare = preparation.prepare
    monkeypatch.setattr(
        preparation, "prepare", lambda source, **rest: paths.append(source.path) or prepare(source, **rest)
    )
    monkeypatch.setattr(preparation, "recipe", lambda preprocessing: preprocessing.to_dict())
    return paths


def test_class_subject_and_position_stay_with_every_slice(study, tmp_path):
    dataset = SliceDataset(study, MRI, classes=("AD", "NC"), cache_dir=tmp_path)
    starts = [dataset.subjects.index(entry["subject"]) for entry in study]
    assert sorted(set(dataset.subjects)) == [entry["subject"] for entry in study]
    for entry, start, end in zip(study, starts, [*starts[1:], len(dataset)], strict=True):
        assert set(dataset.subjects[start:end]) == {entry["subject"]}
        assert set(dataset.labels[start:end]) == {("AD", "NC").index(entry["label"])}
        assert (np.diff(dataset.positions[start:end]) > 0).all()
        alone = SliceDataset([entry], MRI, cache_dir=tmp_path)
        assert np.array_equal(alone.images[:], dataset.images[start:end])
        assert np.array_equal(alone.bounds, dataset.bounds[start:end])


def test_an_item_is_a_slice_with_its_facts(study, tmp_path):
    dataset = SliceDataset(study, MRI, classes=("AD", "NC"), cache_dir=tmp_path)
    item = dataset[len(dataset) - 1]
    assert dataset[-1]["index"] == item["index"] == len(dataset) - 1
    assert item["image"].shape == (1, 32, 32)
    assert item["image"].dtype == torch.float32
    assert torch.equal(item["image"][0], torch.from_numpy(dataset.images[-1]).float())
    assert item["label"].dtype == item["index"].dtype == torch.int64
    assert item["position"] == dataset.positions[-1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_covariates_stay_with_every_slice_and_unknown_ones_are_nan(study, tmp_path):
    study[0]["covariates"] = {"sex": 1.0, "age": 35.8, "weight": 70}
    study[2]["covariates"] = {"age": 61}
    dataset = SliceDataset(study[:3], MRI, cache_dir=tmp_path, covariates=["age", "sex"])
    found = dataset.facts(np.arange(len(dataset)))["covariates"]
    assert found.dtype == torch.float32
    for subject, expected in (("p00", [35.8, 1]), ("p01", [np.nan, np.nan]), ("p02", [61, np.nan])):
        own = found[[name == subject for name in dataset.subjects]]
        assert len(own) > 1
        assert torch.allclose(own, torch.tensor(expected).expand(len(own), 2), equal_nan=True)
    assert torch.equal(dataset[0]["covariates"], found[0])


def test_covariates_follow_their_image_where_another_is_left_out(study, tmp_path):
    Path(study[0]["image"]).write_bytes(b"damaged")
    for number, entry in enumerate(study):
        entry["covariates"] = {"age": number}
    dataset = SliceDataset(study, MRI, cache_dir=tmp_path, covariates=["age"])
    assert dataset.covariates[0] == 1
    assert [int(age) for age in dataset.covariates[:, 0]] == [int(name[1:]) for name in dataset.subjects]


def test_prepared_slices_do_not_depend_on_covariates(study, tmp_path, prepared_paths):
    without = SliceDataset(study[:2], MRI, cache_dir=tmp_path)
    study[0]["covariates"] = {"age": 35.8}
    with_age = SliceDataset(study[:2], MRI, cache_dir=tmp_path, covariates=["age"])
    assert len(prepared_paths) == 2
    assert np.array_equal(without.images[:], with_age.images[:])
    assert without.facts(np.arange(4))["covariates"].shape == (4, 0)


def test_covariates_that_no_image_has_are_refused_with_those_there_are(study, tmp_path):
    with pytest.raises(MedsynthError, match="covariates names age, and the images of the datalist have none"):
        SliceDataset(study, MRI, cache_dir=tmp_path, covariates=["age"])
    study[3]["covariates"] = {"age": 35.8, "sex": 1}
    with pytest.raises(MedsynthError, match="names weight, and .* have the covariates age, sex: name some"):
        SliceDataset(study, MRI, cache_dir=tmp_path, covariates=["age", "weight"])
    with pytest.raises(MedsynthError, match=r"covariates is 'age': give null or a list of names, such as"):
        SliceDataset(study, MRI, cache_dir=tmp_path, covariates="age")


def test_labels_outside_the_classes_are_unknown(study, tmp_path):
    study[0]["label"] = None
    dataset = SliceDataset(study[:2], MRI, classes=("NC",), cache_dir=tmp_path)
    assert set(dataset.labels) == {-1}


def test_spacing_is_that_of_the_slices(study, tmp_path):
    dataset = SliceDataset(study, replace(MRI, image_size=20), cache_dir=tmp_path)
    assert (
        dataset.spacing_mm == dataset.preprocessing.spacing_mm == (2.2, 2.2)
    )  # a head of 22 voxels of 2 mm in 20 pixels
    assert dataset.slice_mm == pytest.approx(2.0)


def test_the_stack_reads_as_an_array(study, tmp_path):
    images = SliceDataset(study, MRI, cache_dir=tmp_path).images
    everything = np.asarray(images)
    assert everything.shape == images.shape
    assert np.array_equal(images[[5, 0, -1]], everything[[5, 0, -1]])
    assert np.array_equal(images[3:40:7], everything[3:40:7])
    assert np.array_equal(images[17], everything[17])


def test_a_volume_is_prepared_once(study, tmp_path, prepared_paths):
    first = SliceDataset(study, MRI, cache_dir=tmp_path)
    assert prepared_paths == [entry["image"] for entry in study]
    second = SliceDataset(study[::-1], MRI, cache_dir=tmp_path)
    assert len(prepared_paths) == len(study)
    assert np.array_equal(second.images[: len(first) // 12], first.images[len(first) - len(first) // 12 :])


def test_a_file_replaced_by_one_of_equal_size_and_older_date_is_prepared_anew(
    study, tmp_path, prepared_paths, save, head
):
    path = Path(study[0]["image"]).with_suffix("").with_suffix(".nii")
    entry = {"image": str(save(path, head(seed=0))), "subject": "p"}
    before = SliceDataset([entry], MRI, cache_dir=tmp_path).images[:]
    status = path.stat()
    save(path, head(seed=5))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**12))
    assert path.stat().st_size == status.st_size
    after = SliceDataset([entry], MRI, cache_dir=tmp_path).images[:]
    assert len(prepared_paths) == 2
    assert not np.array_equal(before, after)


def test_other_settings_are_prepared_separately(study, tmp_path, prepared_paths):
    SliceDataset(study[:1], MRI, cache_dir=tmp_path)
    SliceDataset(study[:1], replace(MRI, window=(0, 100)), cache_dir=tmp_path)
    assert len(prepared_paths) == 2


def test_the_recipe_changes_with_the_number_of_the_preparation_and_libraries(monkeypatch):
    first = preparation.recipe(MRI)
    assert preparation.recipe(MRI) == first
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "PREPARED", preparation.PREPARED + 1)
        assert preparation.recipe(MRI) != first
    monkeypatch.setattr(preparation.monai, "__version__", "0")
    assert preparation.recipe(MRI) != first


@pytest.mark.parametrize("damage", ["truncated", "record cut", "record gone", "array gone"])
def test_damaged_cache_files_are_made_again(study, tmp_path, damage):
    cache = tmp_path / "cache"
    expected = SliceDataset(study[:1], MRI, cache_dir=cache).images[:]
    (array,), (record,) = cache.glob("*.npy"), cache.glob("*.json")
    {
        "truncated": lambda: os.truncate(array, array.stat().st_size - 100),
        "record cut": lambda: os.truncate(record, 20),
        "record gone": record.unlink,
        "array gone": array.unlink,
    }[damage]()
    assert np.array_equal(SliceDataset(study[:1], MRI, cache_dir=cache).images[:], expected)


def test_workers_prepare_the_same(study, tmp_path):
    alone = SliceDataset(study, MRI, cache_dir=tmp_path / "0")
    shared = SliceDataset(study, MRI, cache_dir=tmp_path / "2", num_workers=2)
    assert np.array_equal(alone.images[:], shared.images[:])
    assert alone.subjects == shared.subjects


def test_an_impossible_cache_folder_is_refused_in_one_line(study, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MedsynthError, match="cannot be written"):
        SliceDataset(study, MRI, cache_dir=tmp_path / "file" / "cache")


def test_one_bad_volume_among_many_is_named_and_left_out(study, tmp_path, caplog):
    whole = SliceDataset(study[1:], MRI, cache_dir=tmp_path)
    os.truncate(study[0]["image"], 2000)
    with caplog.at_level(logging.WARNING):
        dataset = SliceDataset(study, MRI, cache_dir=tmp_path)
    assert np.array_equal(dataset.images[:], whole.images[:])
    assert dataset.subjects == whole.subjects
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith(f"left out: {study[0]['image']} cannot be read, it seems truncated")
    assert lines[1:] == ["1 of 12 images left out"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda v: np.stack([v, v], -1), "is 4D, .*pick a frame"),
        (lambda v: np.where(v == 400, np.nan, v.astype(np.float32)), "45 voxels of 18720 that are NaN"),
        (lambda v: np.zeros_like(v), "same value, 0, everywhere"),
        (lambda v: (v > 0).astype(np.int16), "is it a mask"),
    ],
)
def test_an_unusable_volume_is_refused_with_the_reason(tmp_path, head, damage, line):
    path = tmp_path / "v.nii.gz"
    volume = damage(head())
    nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
    with pytest.raises(MedsynthError, match=rf"1 of 1 images cannot be used.*v\.nii\.gz .*{line}"):
        SliceDataset([{"image": str(path), "subject": "p"}], MRI, cache_dir=tmp_path)


def test_too_many_bad_volumes_stop(study, tmp_path):
    for entry in study[:2]:
        Path(entry["image"]).write_bytes(b"")
    with pytest.raises(MedsynthError, match=r"2 of 12 images cannot be used, and at most 10% .*p00"):
        SliceDataset(study, MRI, cache_dir=tmp_path)
    assert len(SliceDataset(study, MRI, cache_dir=tmp_path, max_bad_fraction=0.2)) > 0


def test_a_repaired_volume_is_used(study, tmp_path):
    content = Path(study[0]["image"]).read_bytes()
    Path(study[0]["image"]).unlink()
    short = len(SliceDataset(study, MRI, cache_dir=tmp_path))
    Path(study[0]["image"]).write_bytes(content)
    assert len(SliceDataset(study, MRI, cache_dir=tmp_path)) > short


def test_programming_errors_keep_their_traceback(study, tmp_path, monkeypatch):
    monkeypatch.setattr("medsynth.data.preprocessing.transforms.find_patient", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError) as caught:
        SliceDataset(study, MRI, cache_dir=tmp_path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_pictures_share_files_and_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "PICTURES_A_FILE", 4)
    for i in range(10):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "5.png").write_bytes(b"damaged")
    entries = [{"image": str(tmp_path / f"{i}.png"), "subject": str(i)} for i in range(10)]
    dataset = SliceDataset(entries, Preprocessing("image", None, None, 8), cache_dir=tmp_path / "c")
    assert len(list((tmp_path / "c").glob("*.npy"))) == 3
    assert ((dataset.images[:][:, 0, 0] + 1) * 127.5 / 20).round().tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert dataset.subjects == list("012346789")
    assert np.isnan(dataset.positions).all()


def test_a_picture_among_volumes_is_refused_with_its_modality(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        MedsynthError, match="is a picture, and volumes are needed: for pictures, train with --modality image"
    ):
        SliceDataset([{"image": str(tmp_path / "a.png"), "subject": "a"}], MRI, cache_dir=tmp_path)


def test_the_cache_is_where_the_environment_says(study, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSYNTH_CACHE", str(tmp_path / "here"))
    SliceDataset(study[:1], MRI)
    (record,) = (tmp_path / "here").glob("*.json")
    assert record.with_suffix(".npy").exists()


def test_pictures_have_the_positions_of_their_entries(tmp_path):
    entries = []
    for number, position in enumerate((0.0, 0.25, None, 1.0)):
        Image.fromarray(np.full((8, 8), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
        entries.append({"image": str(tmp_path / f"{number}.png"), "subject": "a", "position": position})
    dataset = SliceDataset(entries, Preprocessing("image", None, None, 8), cache_dir=tmp_path / "c")
    np.testing.assert_array_equal(dataset.positions, np.array([0, 0.25, np.nan, 1], np.float32))
    assert dataset[1]["position"] == 0.25


def test_coloured_and_broken_pictures_are_left_out_by_name(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    for name in "abcd":
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    Image.fromarray(np.stack([noise, noise[::-1], noise.T], -1)).save(tmp_path / "c.jpg")
    entries = [{"image": str(tmp_path / f"{name}.jpg"), "subject": name} for name in "abcd"]
    dataset = SliceDataset(
        entries, Preprocessing("image", None, None, 32), cache_dir=tmp_path / "c", max_bad_fraction=0.5
    )
    assert dataset.subjects == ["a", "d"]
    lines = [record.message for record in caplog.records if record.message.startswith("left out: ")]
    assert [line.split()[2] for line in lines] == [str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]
    assert "truncated" in lines[0]
    assert "--grey true" in lines[1]
    grey = Preprocessing("image", None, None, 32, grey=True)
    assert SliceDataset(entries, grey, cache_dir=tmp_path / "c", max_bad_fraction=0.5).subjects == ["a", "c", "d"]
