from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.datalist import datalist
from medsynth.errors import MedsynthError, as_line
from medsynth.inference.generate import BLOCK, Request
from medsynth.inference.image_folder import read_sidecar
from medsynth.inference.label_maps import check_names, label_map_files
from medsynth.run.recipe import load_model


@pytest.fixture
def maps(tmp_path: Path, save: Callable) -> Path:
    """A label map of 2 mm, of two lobes beside each other, off the middle; 6 of its 8 slices show something."""
    labels = np.zeros((40, 36, 8), np.int16)
    labels[6:16, 8:24, 1:7], labels[16:22, 8:24, 1:7] = 2, 5
    return save(tmp_path / "maps" / "a_dseg.nii.gz", labels).parent


def read(folder: Path, rows: list[dict[str, str]], key: str) -> np.ndarray:
    return np.stack([nib.load(folder / row[key]).get_fdata()[..., 0] for row in rows])


def refusal(run: Callable) -> str:
    with pytest.raises(Exception, match=".") as refused:
        run()
    return as_line(refused.value)


def test_each_image_comes_with_its_label_map_on_the_same_grid(infer, checkpoint, maps, tmp_path):
    rows, out = infer(checkpoint, maps, num_images=8), tmp_path / "out"
    assert len(rows) == 8  # of 6 slices: two of them twice
    images, labels = read(out, rows, "file"), read(out, rows, "segmentation")
    for row in rows:
        pair = [nib.load(out / row[key]) for key in ("file", "segmentation")]
        assert pair[0].shape == pair[1].shape == (16, 16, 1)
        np.testing.assert_array_equal(pair[0].affine, pair[1].affine)
        sidecar = read_sidecar(out / row["file"])
        assert sidecar["SegmentationOrigin"] == "given"
        assert len(sidecar["SegmentationDigest"]) == 64
        assert sidecar["Segmentation"] == row["segmentation"]
        assert row["segmentation"].startswith("segmentations/vaegan_")
    expected = np.zeros((16, 16))  # rows from front to back, columns from right to left; in the middle of the slice
    expected[4:12, 4:7], expected[4:12, 7:12] = 5, 2
    np.testing.assert_array_equal(labels, np.broadcast_to(expected, labels.shape))
    assert (out / "segmentations" / "dseg.tsv").read_text().splitlines()[2] == "2\tleft lobe"
    assert (out / "grid_segmentations.png").is_file()
    assert not np.allclose(images[0], images[1])
    other = infer(checkpoint, maps, num_images=2, guidance=0.0)
    assert not np.allclose(read(out, other, "file"), images[:2])
    assert len(list((out / "segmentations").glob("*.nii.gz"))) == 2  # those of the earlier call are gone


def test_written_label_maps_are_taken_as_they_are(infer, checkpoint, maps, tmp_path):
    out = tmp_path / "out"
    first = read(out, infer(checkpoint, maps, num_images=3, deform=1.0), "segmentation")
    assert read_sidecar(next((out / "images").glob("*.nii.gz")))["SegmentationOrigin"] == "deformed"
    (out / "segmentations").rename(tmp_path / "again")
    np.testing.assert_array_equal(read(out, infer(checkpoint, tmp_path / "again", num_images=3), "segmentation"), first)


def test_the_layout_of_nnunet_has_codes_without_gaps(infer, checkpoint, maps, tmp_path):
    rows, out = infer(checkpoint, maps, num_images=2, layout="nnunet"), tmp_path / "out"
    names = [f"vaegan_unlabelled_0_000{i}" for i in range(2)]
    assert [row["file"] for row in rows] == [f"imagesTr/{name}_0000.nii.gz" for name in names]
    assert [row["segmentation"] for row in rows] == [f"labelsTr/{name}.nii.gz" for name in names]
    assert set(np.unique(read(out, rows, "segmentation"))) == {0, 1, 2}
    content = json.loads((out / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "left lobe": 1, "right lobe": 2}
    assert (content["numTraining"], content["file_ending"]) == (2, ".nii.gz")


def test_label_maps_of_the_training_images_of_a_datalist_are_cut_as_these_are(
    infer, checkpoint, maps, head, save, tmp_path
):
    volume = head((40, 36, 8))
    image, labels = (
        save(tmp_path / "a_T1w.nii.gz", volume),
        save(tmp_path / "a.nii.gz", (volume > 0).astype(np.int16) * 2),
    )
    entry = {"image": str(image), "segmentation": str(labels), "subject": "a", "label": "NC"}
    tested = entry | {"image": str(save(tmp_path / "b_T1w.nii.gz", volume)), "subject": "b", "label": "AD"}
    listed = datalist.Datalist("a", {"training": [entry], "validation": [], "test": [tested]})
    datalist.write(tmp_path / "list.json", replace(listed, segmentation_classes={0: "background", 2: "right lobe"}))
    refused = refusal(lambda: infer(checkpoint, tmp_path / "list.json"))
    assert f"code 2 is right lobe in {tmp_path / 'list.json'}, and left lobe in the model" in refused
    datalist.write(tmp_path / "list.json", replace(listed, segmentation_classes={0: "background", 2: "left lobe"}))
    rows = infer(checkpoint, tmp_path / "list.json", num_images=3)
    assert {row["label"] for row in rows} == {"NC"}
    assert [float(row["position"]) for row in rows] == sorted({float(row["position"]) for row in rows})
    assert set(np.unique(read(tmp_path / "out", rows, "segmentation"))) == {0, 2}


def test_a_model_of_pictures_draws_label_maps_as_png(infer, checkpoint_of_pictures, tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    labels[3:9, 5:12] = 5
    (tmp_path / "maps").mkdir()
    Image.fromarray(labels).save(tmp_path / "maps" / "a.png")
    (row,) = infer(checkpoint_of_pictures, tmp_path / "maps", num_images=1, format="png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["segmentation"])), labels)


def test_classes_that_had_no_names_when_the_model_learned_may_have_some_now():
    check_names({2: "liver"}, "dseg.tsv", {0: "background", 2: "class_2"})
    with pytest.raises(MedsynthError, match="code 2 is liver in dseg.tsv, and class_3 in the model"):
        check_names({2: "liver"}, "dseg.tsv", {0: "background", 2: "class_3"})


def test_scans_beside_label_maps_are_told_from_them_by_their_names(tmp_path):
    names = ["a_T1w.nii.gz", "a_dseg.nii.gz", "b_T1w.nii.gz", "b_dseg.nii.gz"]
    for name in names:
        (tmp_path / name).touch()
    assert [file.name for file in label_map_files(tmp_path)] == names[1::2]
    for name in names[::2]:
        (tmp_path / name).unlink()
    assert [file.name for file in label_map_files(tmp_path)] == names[1::2]


def test_what_cannot_be_drawn_is_refused_in_a_line(infer, checkpoint, model_pt, maps, save, tmp_path):
    def refused(segmentations: Path | None = maps, model: Path = checkpoint, **more: object) -> str:
        return refusal(lambda: infer(model, segmentations, num_images=2, **more))

    assert "deform is 3: give a number from 0 to 2" in refused(deform=3)
    assert "mode is interpolate, where segmentations change nothing" in refused(mode="interpolate")
    assert "position is given, and label maps say themselves where they are" in refused(position=0.5)
    assert "does not exist: give a label map, a folder" in refused(tmp_path / "none")
    (maps / "dseg.tsv").write_text("index\tname\n2\tliver\n")
    assert "code 2 is liver in" in refused()
    (maps / "dseg.tsv").unlink()
    save(maps / "b_dseg.nii.gz", np.full((8, 8, 8), 7, np.int16))
    assert "b_dseg.nii.gz holds the code 7, and the classes have 0, 2, 5" in refused()
    save(maps / "b_dseg.nii.gz", np.zeros((8, 8, 8), np.int16))
    assert "b_dseg.nii.gz is empty: it holds nothing but 0" in refused()
    save(maps / "b_dseg.nii.gz", np.full((1, 36, 9), 2, np.int16))
    assert "b_dseg.nii.gz is a single slice of another plane: the model draws axial ones" in refused()
    save(maps / "b_dseg.nii.gz", np.eye(40, dtype=np.int16)[..., None] * np.array([[[0, 2, 0]]], np.int16))
    assert "b_dseg.nii.gz holds nothing that is seen at 4 x 4 mm" in refused()
    assert not (tmp_path / "out").exists()
    assert "the model learned without label maps: train one with --use_segmentation true" in refused(model=model_pt())
    assert "layout is nnunet and there are no label maps" in refused(None, model_pt(), layout="nnunet")


def test_without_given_label_maps_a_model_draws_them_and_images_of_them(infer, checkpoint, tmp_path):
    rows, out = infer(checkpoint, None, num_images=18), tmp_path / "out"
    images, labels = read(out, rows, "file"), read(out, rows, "segmentation")
    assert images.shape == labels.shape == (18, 16, 16)
    assert set(np.unique(labels)) == {0, 2, 5}
    for row in rows:
        sidecar = read_sidecar(out / row["file"])
        assert sidecar["SegmentationOrigin"] == "drawn"
        assert not {"SegmentationDigest", "SegmentationSlice", "Deform"} & set(sidecar)
        assert (sidecar["Label"], sidecar["Position"]) == (row["label"], float(row["position"]))
    assert {row["label"] for row in rows} == {"AD", "NC"}
    assert len(np.unique(labels, axis=0)) == 18
    fewer = infer(checkpoint, None, num_images=2)
    np.testing.assert_array_equal(read(out, fewer, "segmentation"), labels[:2])
    assert not np.array_equal(read(out, infer(checkpoint, None, num_images=2, seed=1), "segmentation"), labels[:2])


def test_drawn_label_maps_are_of_what_is_requested(infer, checkpoint, tmp_path):
    def drawn(**request: object) -> tuple[list[dict[str, str]], np.ndarray]:
        rows = infer(checkpoint, None, num_images=3, layout="nnunet", **request)
        return rows, read(tmp_path / "out", rows, "segmentation")

    (rows, low), (_, high) = drawn(label="NC", position=0.0), drawn(label="NC", position=1.0)
    assert {(row["label"], float(row["position"])) for row in rows} == {("NC", 0.0)}
    assert set(np.unique(low)) <= {0, 1, 2}  # nnU-Net's codes
    assert not np.array_equal(low, high)
    assert not np.array_equal(high, drawn(label="NC", position=1.0, guidance=3.0)[1])


def test_the_image_belongs_to_the_drawn_label_map(infer, checkpoint, tmp_path):
    out, request = tmp_path / "out", {"num_images": 2, "label": "NC", "position": 0.5}
    ((row, _), given) = infer(checkpoint, None, **request), load_model(checkpoint).network
    image, codes = read(out, [row], "file")[0], read(out, [row], "segmentation")[0]
    assert given.map_prior is not None
    seed = Request(2, "NC", 0.5, 0).random_seed(0)
    noise = torch.randn(BLOCK, *given.prior.shape, generator=torch.Generator().manual_seed(seed))[:1]
    indices = torch.from_numpy(np.searchsorted([0, 2, 5], codes))[None, None]
    facts = torch.tensor([1]), torch.tensor([0.5]), torch.empty(1, 0)
    expected = given.decode(given.prior.travel(noise, *facts, steps=1, given=given.given(indices)))
    np.testing.assert_allclose(image, ((expected.clamp(-1, 1) + 1) / 2)[0, 0].detach().numpy(), atol=2e-3)


def test_a_model_whose_label_maps_have_no_prior_is_to_be_trained_again(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    kept = {name: value for name, value in content["weights"].items() if not name.startswith("map_prior")}
    torch.save(content | {"weights": kept}, checkpoint)
    with pytest.raises(MedsynthError, match="weights are of another network .* train it again"):
        load_model(checkpoint)
