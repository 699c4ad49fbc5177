from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, plain, plain_segmentation
from medsynth.errors import MedsynthError

CLASSES = {0: "background", 3: "tissue"}


@pytest.fixture
def labelled(tmp_path: Path, save: Callable) -> Callable[..., dict]:
    """An entry whose image is 100 where its label map says so and 0 elsewhere, without any symmetry."""

    def build(number: int = 0, orientation: str = "RAS", code: int = 3, mm: tuple[float, ...] = (2, 2.5, 3)) -> dict:
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (27, 33, 24)), indexing="ij")
        inside = sum(axis**2 for axis in axes) < 0.6
        holes = np.random.default_rng(number).random((9, 11, 8)).repeat(3, 0).repeat(3, 1).repeat(3, 2) < 0.2
        labels = (inside & ~holes).astype(np.int16)
        image = save(tmp_path / f"s{number}_T1w.nii.gz", 100 * labels, mm, orientation)
        segmentation = save(tmp_path / f"s{number}_dseg.nii.gz", code * labels, mm, "RAS")
        return {"image": str(image), "segmentation": str(segmentation), "subject": f"s{number}"}

    return build


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("spacing_mm", "orientation"), [(None, "LPS"), ((3.7, 2.9), "PSR"), ((1.3, 1.7), "RAS")])
def test_image_and_label_map_never_part(labelled, tmp_path, plane, spacing_mm, orientation):
    preprocessing = Preprocessing("mri", (0, 100), spacing_mm, 40, plane=plane, neighbours=1, keep_pixels=True)
    entries = [labelled(0, orientation), labelled(1, orientation)]
    dataset = SliceDataset(entries, preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)
    assert set(dataset.subjects) == {"s0", "s1"}
    for index in range(len(dataset)):
        item = dataset[index]
        image, labels = item["image"][1], item["segmentation"][0]
        apart = image.abs() > 1e-2  # where linear interpolation says both classes alike, either is right
        assert torch.equal((image > 0)[apart], (labels == 1)[apart])
        assert labels.any()
        assert item["segmentation"].shape == (1, 40, 40)


@pytest.mark.parametrize("finer", [1, 2])
@pytest.mark.parametrize(("mm", "orientation"), [((4, 4, 4), "LPS"), ((5.1, 3.3, 4.2), "PSR")])
def test_image_and_label_map_of_a_volume_never_part(labelled, tmp_path, finer, mm, orientation):
    preprocessing = VolumePreprocessing("mri", (0, 100), mm, (16, 24, 24), "head", finer=finer)
    entries = [labelled(0, orientation), labelled(1, orientation)]
    dataset = VolumeDataset(entries, preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)
    without = VolumeDataset(entries, preprocessing, cache_dir=tmp_path / "cache")
    for index in range(2):
        item = dataset[index]
        assert torch.equal(item["image"], without[index]["image"])
        image, labels = item["image"], item["segmentation"]
        apart = image.abs() > 1e-2  # where linear interpolation says both classes alike, either is right
        assert torch.equal((image > 0)[apart], (labels == 1)[apart])
        assert 0.01 < labels.mean() < 0.6
        on_grid = plain_segmentation(labels[None], preprocessing.size, finer)
        shares = plain((labels[None] == 1).float(), preprocessing.size, finer)
        assert on_grid.shape == (1, 1, 16, 24, 24)
        assert torch.equal(on_grid == 1, shares > 0.5)
    assert dataset.segmentation["classes"] == {"0": "background", "3": "tissue"}
    for axis, middle in enumerate(dataset.segmentation["middle"]):
        shown = on_grid[0, 0].movedim(axis, 0).flatten(1).any(dim=1).nonzero()
        assert middle == pytest.approx(float(shown[0] + shown[-1]) / 2, abs=1.0)


def test_flipped_batches_keep_image_and_label_map_together(labelled, tmp_path):
    preprocessing = Preprocessing("mri", (0, 100), None, 40)
    dataset = SliceDataset([labelled()], preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)
    batch = next(iter(SliceLoader(dataset, 8, flip=True)))
    assert torch.equal(batch["image"] > 0, batch["segmentation"] == 1)
    unmirrored = dataset.stored_slices.read(dataset.views["image"][batch["index"].numpy()])
    assert not torch.equal(batch["image"], unmirrored)


def test_slices_are_the_same_with_and_without_label_maps(labelled, tmp_path):
    preprocessing, entries = Preprocessing("mri", (0, 100), (3.0, 3.0), 32), [labelled(0), labelled(1)]
    without = SliceDataset(entries, preprocessing, cache_dir=tmp_path / "cache")
    beside = SliceDataset(entries, preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)
    assert np.array_equal(without.images[:], beside.images[:])
    assert without.views.keys() == {"image"}
    assert without.segmentation is None
    assert beside.segmentation["classes"] == {"0": "background", "3": "tissue"}
    assert beside.segmentation["middle"] == pytest.approx([15.5, 15.5], abs=1.5)


def test_pictures_are_scaled_with_their_label_maps(tmp_path):
    labels = np.zeros((30, 20), np.uint8)
    labels[5:22, 4:15] = 1
    Image.fromarray(200 * labels).save(tmp_path / "a.png")
    coloured = Image.fromarray(3 * labels, "P")
    coloured.putpalette([0, 0, 0] * 3 + [255, 0, 0])
    coloured.save(tmp_path / "a_seg.png")
    entry = {"image": str(tmp_path / "a.png"), "segmentation": str(tmp_path / "a_seg.png"), "subject": "a"}
    for keep_pixels in (False, True):
        preprocessing = Preprocessing("image", (0, 200), None, 24, keep_pixels=keep_pixels)
        dataset = SliceDataset([entry], preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)
        item = dataset[0]
        assert torch.equal(item["image"] > 0, item["segmentation"] == 1)
        assert item["segmentation"].sum() > 80


def test_a_changed_label_map_is_prepared_again(labelled, tmp_path):
    preprocessing, entry = Preprocessing("mri", (0, 100), None, 40), labelled()
    first = SliceDataset(
        [entry], preprocessing, cache_dir=tmp_path / "cache", segmentation_classes={0: "", 2: "", 3: ""}
    )
    entry = labelled(code=2)
    other = SliceDataset(
        [entry], preprocessing, cache_dir=tmp_path / "cache", segmentation_classes={0: "", 2: "", 3: ""}
    )
    assert first[5]["segmentation"].max() == 2
    assert other[5]["segmentation"].max() == 1


def test_label_maps_that_cannot_be_used_are_refused_in_a_line(labelled, save, tmp_path):
    preprocessing = Preprocessing("mri", (0, 100), None, 40)

    def prepare(entry: dict) -> SliceDataset:
        return SliceDataset([entry], preprocessing, cache_dir=tmp_path / "cache", segmentation_classes=CLASSES)

    with pytest.raises(MedsynthError, match=r"holds the code 7, and the classes have 0, 3: change the code, or"):
        prepare(labelled(code=7))
    entry = labelled(1)
    with pytest.raises(MedsynthError, match=r"1 of 1 images have no segmentation, the first is .*s1_T1w.nii.gz: list"):
        prepare({key: value for key, value in entry.items() if key != "segmentation"})
    save(Path(entry["segmentation"]), np.ones((27, 33, 23), np.int16), (2, 2.5, 3))
    with pytest.raises(MedsynthError, match=r"is on another grid \(33 x 27 x 23\) than its image \(33 x 27 x 24\)"):
        prepare(entry)
    save(Path(entry["segmentation"]), np.full((27, 33, 24), 0.5, np.float32), (2, 2.5, 3))
    with pytest.raises(MedsynthError, match="is no label map: it holds 0.5, and whole numbers from 0 on are needed"):
        prepare(entry)
    save(Path(entry["segmentation"]), np.zeros((27, 33, 24), np.int16), (2, 2.5, 3))
    with pytest.raises(MedsynthError, match="all label maps are empty: check the segmentations of the datalist"):
        prepare(entry)
