from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medsynth.data.datalist import datalist
from medsynth.errors import MedsynthError
from medsynth.inference.generate import Request
from medsynth.inference.image_folder import ImageFolder, read_sidecar
from medsynth.models.volumes.inference import VolumeInference
from medsynth.models.volumes.network import VolumeFlow
from medsynth.run.recipe import LoadedModel

SIZE = (16, 16, 24)
CLASSES = {"0": "background", "2": "left lobe", "5": "right lobe"}


@pytest.fixture
def model() -> Callable[..., LoadedModel]:
    """A model of 16 x 16 x 24 voxels of 4 mm, to which label maps matter."""

    def build(classes: dict[str, str] = CLASSES) -> LoadedModel:
        torch.manual_seed(0)
        network = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, 2, ("age",), segmentation_classes=len(classes)).eval()
        images = torch.rand(6, 1, *SIZE) * 2 - 1
        network.fit(images, torch.arange(6) % 2, torch.full((6,), torch.nan), torch.arange(30.0, 36)[:, None])
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        preprocessing = {"modality": "mri", "window": None, "spacing_mm": [4, 4, 4], "size": list(SIZE)}
        preprocessing |= {"region": "head", "bias_correction": False, "finer": 2}
        space = {"modality": "mri", "spacing_mm": [4.0, 4.0, 4.0], "bounds": None}
        extra = {"slices": space, "segmentation": {"classes": classes, "middle": [7.5, 7.5, 11.5]} if classes else None}
        return LoadedModel(network, preprocessing, ["AD", "NC"], {}, "0" * 64, extra)

    return build


@pytest.fixture
def infer(model, tmp_path):
    """Generate volumes; returns the rows of images.csv."""

    def run(
        segmentations: Path | None,
        num_images=2,
        classes=CLASSES,
        mode="generate",
        layout="images",
        covariates=None,
        **more,
    ):
        own = model(classes)
        output = ImageFolder(tmp_path / "out", "volumes", own.digest, overwrite=True, layout=layout, modalities=["mri"])
        request, path = Request(num_images, None, None, 0, covariates), segmentations and str(segmentations)
        image = "a.nii.gz" if mode != "generate" else None
        VolumeInference(own, output, mode, request, image, steps=1, segmentations=path, **more).run()
        return list(csv.DictReader((tmp_path / "out" / "images.csv").open()))

    return run


@pytest.fixture
def maps(tmp_path: Path, save: Callable) -> Path:
    """A label map of 2 mm, of two lobes beside each other, off the middle; its axes run to the left and the back."""
    labels = np.zeros((40, 36, 40), np.int16)
    labels[6:16, 8:24, 4:28], labels[16:22, 8:24, 4:28] = 2, 5
    return save(tmp_path / "maps" / "a_dseg.nii.gz", labels, orientation="LPS").parent


def read(folder: Path, rows: list[dict[str, str]], key: str) -> np.ndarray:
    return np.stack([nib.load(folder / row[key]).get_fdata() for row in rows])


def test_each_volume_comes_with_its_label_map_on_the_same_grid(infer, maps, tmp_path):
    rows, out = infer(maps), tmp_path / "out"
    images, labels = read(out, rows, "file"), read(out, rows, "segmentation")
    for row in rows:
        pair = [nib.load(out / row[key]) for key in ("file", "segmentation")]
        assert pair[0].shape == pair[1].shape == SIZE
        np.testing.assert_array_equal(pair[0].affine, pair[1].affine)
        sidecar = read_sidecar(out / row["file"])
        assert sidecar["SegmentationOrigin"] == "given"
        assert len(sidecar["SegmentationDigest"]) == 64
        assert "SegmentationSlice" not in sidecar
        assert row["segmentation"].startswith("segmentations/volumes_")
    expected = np.zeros(SIZE)  # from left to right, from back to front and upwards; in the middle of the grid
    expected[4:9, 4:12, 6:18], expected[9:12, 4:12, 6:18] = 2, 5
    np.testing.assert_array_equal(labels, np.broadcast_to(expected, labels.shape))
    assert (out / "segmentations" / "dseg.tsv").read_text().splitlines()[2] == "2\tleft lobe"
    assert not np.allclose(images[0], images[1])
    other = infer(maps, guidance=0.0)
    assert not np.allclose(read(out, other, "file"), images)


def test_the_first_of_many_is_the_first_of_few_and_follows_its_own_map(infer, maps, save, tmp_path):
    first = read(tmp_path / "out", infer(maps), "file")[0]
    np.testing.assert_array_equal(read(tmp_path / "out", infer(maps, num_images=1), "file")[0], first)
    save(maps / "a_dseg.nii.gz", np.full((16, 16, 24), 5, np.int16), (4, 4, 4))
    assert not np.allclose(read(tmp_path / "out", infer(maps, num_images=1), "file")[0], first)


def test_written_label_maps_are_taken_as_they_are(infer, maps, tmp_path):
    out = tmp_path / "out"
    first = read(out, infer(maps, num_images=3, deform=1.0), "segmentation")
    assert read_sidecar(next((out / "images").glob("*.nii.gz")))["SegmentationOrigin"] == "deformed"
    assert not np.array_equal(first[0], first[1])
    (out / "segmentations").rename(tmp_path / "again")
    np.testing.assert_array_equal(read(out, infer(tmp_path / "again", num_images=3), "segmentation"), first)


def test_the_layout_of_nnunet_has_codes_without_gaps(infer, maps, tmp_path):
    rows, out = infer(maps, layout="nnunet"), tmp_path / "out"
    assert rows[1]["file"] == "imagesTr/volumes_unlabelled_0_0001_0000.nii.gz"
    assert rows[1]["segmentation"] == "labelsTr/volumes_unlabelled_0_0001.nii.gz"
    assert set(np.unique(read(out, rows, "segmentation"))) == {0, 1, 2}
    assert json.loads((out / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "left lobe": 1,
        "right lobe": 2,
    }


def test_label_maps_of_a_datalist_lie_as_its_images_do_and_bring_class_and_covariates(infer, head, save, tmp_path):
    volume = head((40, 36, 30))
    image = save(tmp_path / "a_T1w.nii.gz", volume)
    labels = save(tmp_path / "a.nii.gz", (volume > 0).astype(np.int16) * 2)
    entry = {
        "image": str(image),
        "segmentation": str(labels),
        "subject": "a",
        "label": "NC",
        "covariates": {"age": 33.0},
    }
    listed = datalist.Datalist("a", {"training": [entry], "validation": [], "test": []})
    datalist.write(tmp_path / "list.json", listed)
    (row,) = infer(tmp_path / "list.json", num_images=1)
    assert (row["label"], float(row["age"])) == ("NC", 33)
    (row,) = infer(tmp_path / "list.json", num_images=1, covariates={"age": 31})
    assert float(row["age"]) == 31
    assert set(np.unique(read(tmp_path / "out", [row], "segmentation"))) == {0, 2}


def test_what_cannot_be_drawn_is_refused_in_a_line(infer, maps, save, tmp_path):
    def refused(segmentations: Path | None = maps, **more: object) -> str:
        with pytest.raises(MedsynthError) as stopped:
            infer(segmentations, **more)
        assert not (tmp_path / "out").exists()
        return str(stopped.value)

    assert "layout is nnunet and there are no label maps" in refused(None, layout="nnunet")
    assert "deform is 3: give a number from 0 to 2" in refused(deform=3)
    assert "mode is edit, where segmentations change nothing" in refused(mode="edit")
    assert "does not exist: give a label map, a folder" in refused(tmp_path / "none")
    assert "the model learned without label maps: train one with --use_segmentation true" in refused(classes={})
    (maps / "dseg.tsv").write_text("index\tname\n2\tliver\n")
    assert "code 2 is liver in" in refused()
    (maps / "dseg.tsv").unlink()
    for labels, words in (
        (np.full((8, 8, 8), 7, np.int16), "holds the code 7, and the classes have 0, 2, 5"),
        (np.zeros((8, 8, 8), np.int16), "is empty: it holds nothing but 0"),
        (np.full((8, 8, 1), 2, np.int16), "is a single slice, and label maps of whole volumes are needed"),
        (np.full((8, 8, 8), 0.5, np.float32), "is no label map: it holds 0.5"),
    ):
        save(maps / "b_dseg.nii.gz", labels)
        assert f"b_dseg.nii.gz {words}" in refused()


def test_a_model_with_label_maps_draws_without_them(infer, tmp_path):
    (row,) = infer(None, num_images=1)
    assert "segmentation" not in row
    image = nib.load(tmp_path / "out" / row["file"]).get_fdata()
    assert np.isfinite(image).all()
    assert image.std() > 0
