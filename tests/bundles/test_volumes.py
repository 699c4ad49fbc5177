from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tables import rows

from medsynth.data.datalist import datalist
from medsynth.evaluation.metrics import segmentation_utility
from medsynth.run.recipe import load_model

SMALL = {
    "size": [32, 32, 40],
    "spacing_mm": [8.0, 8.0, 8.0],
    "channels": [32, 32],
    "detail_channels": [32, 32],
    "batch_size": 2,
    "epoch_length": 12,
    "val_interval": 1,
    "sample_epochs": 100,
    "device": "cpu",
    "log_iterations": 4,
    "train__handlers__1__samples__count": 1,
}


@pytest.fixture(scope="module")
def trained(trains, heads, tmp_path_factory) -> Path:
    return trains("volumes/train.json", heads, **SMALL)(tmp_path_factory.mktemp("volumes") / "run", max_epochs=3)


@pytest.fixture(scope="module")
def generated(trained, run_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "images"
    options = {"checkpoint": str(trained / "model.pt"), "num_images": 2, "steps": 1, "device": "cpu"}
    run_bundle("inference", "volumes/inference.json", output_dir=str(folder), **options)
    return folder


def test_it_learns_and_the_best_by_held_out_volumes_is_kept(trained):
    metrics = rows(trained / "metrics.csv")
    assert metrics[-1]["validation_loss"] < metrics[0]["validation_loss"] - 0.05
    table = rows(trained / "losses.csv")
    assert table[-1]["flow"] == pytest.approx((table[-1]["level_0"] + table[-1]["level_1"]) / 2, rel=1e-3)
    model = load_model(trained / "model.pt")
    assert model.extra["metrics"]["validation_loss"] == pytest.approx(min(row["validation_loss"] for row in metrics))
    assert model.preprocessing["size"] == SMALL["size"]


def test_drawn_volumes_have_grid_geometry_and_classes_of_the_training_set(generated):
    files = sorted((generated / "images").glob("*.nii.gz"))
    assert len(files) == 2
    image = nib.load(files[0])
    assert image.shape == tuple(SMALL["size"])
    np.testing.assert_allclose(image.header.get_zooms(), 8)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert json.loads(files[0].with_name(files[0].name.replace(".nii.gz", ".json")).read_text())["Label"] in (
        "AD",
        "NC",
    )


@pytest.mark.parametrize("stem", ["translation", "superres", "vaegan"])
def test_other_systems_take_drawn_volumes_as_they_are(stem, generated, untrained, run_bundle, tmp_path):
    drawn = sorted((generated / "images").glob("*.nii.gz"))[0]
    options = {"checkpoint": str(untrained(stem)), "input": str(drawn), "device": "cpu", "force": True}
    options |= {"mode": "reconstruct"} if stem == "vaegan" else {}
    run_bundle("inference", f"{stem}/inference.json", output_dir=str(tmp_path), **options)
    (made,) = (tmp_path / "images").glob("*.nii.gz")
    made, drawn = nib.load(made), nib.load(drawn)
    extents = [np.abs(one.affine[:3, :3]).sum(axis=0) * one.shape for one in (made, drawn)]
    if stem != "vaegan":  # which leaves out slices without enough of the head
        np.testing.assert_allclose(sorted(extents[0]), sorted(extents[1]), rtol=1e-3)
    assert np.isfinite(made.get_fdata()).all()


@pytest.fixture(scope="module")
def labelled(heads, tmp_path_factory) -> Path:
    """The heads with a label map each: what is bright, on the left and on the right."""
    folder = tmp_path_factory.mktemp("labelled")
    data = datalist.read(heads)
    for entry in data.entries:
        image = nib.as_closest_canonical(nib.load(entry["image"]))
        bright = image.get_fdata() > np.percentile(image.get_fdata(), 70)
        codes = bright * np.where(np.arange(image.shape[0]) < image.shape[0] / 2, 1, 2)[:, None, None]
        entry["segmentation"] = str(folder / f"{entry['subject']}_dseg.nii.gz")
        nib.save(nib.Nifti1Image(codes.astype(np.uint8), image.affine), entry["segmentation"])
    classes = {0: "background", 1: "left half", 2: "right half"}
    datalist.write(folder / "list.json", replace(data, segmentation_classes=classes))
    return folder / "list.json"


def test_label_maps_are_learned_drawn_beside_their_volumes_and_evaluated(
    labelled, trains, run_bundle, cache_dir, short_search, tmp_path, monkeypatch
):
    monkeypatch.setattr(segmentation_utility, "STEPS", 2)
    run = trains("volumes/train.json", labelled, **SMALL)(tmp_path / "run", max_epochs=1, use_segmentation=True)
    options = {"checkpoint": str(run / "model.pt"), "segmentations": str(labelled), "deform": 1.0, "device": "cpu"}
    out = tmp_path / "images"
    run_bundle("inference", "volumes/inference.json", output_dir=str(out), num_images=8, steps=1, **options)
    for image in (out / "images").glob("*.nii.gz"):
        maps = out / "segmentations" / image.name.replace(".nii.gz", "_dseg.nii.gz")
        assert set(np.unique(nib.load(maps).get_fdata())) == {0, 1, 2}
        np.testing.assert_array_equal(nib.load(maps).affine, nib.load(image).affine)
    options = {"real": str(labelled), "synthetic": str(out), "split": "both", "cache_dir": str(cache_dir)}
    report = tmp_path / "report"
    run_bundle("evaluation", "evaluation/evaluate.json", output_dir=str(report), device="cpu", **options)
    metrics = json.loads((report / "metrics.json").read_text())
    assert 0.7 < metrics["label_volume/left half"]["value"] < 1.4
    assert {"label_volume/right half", "dice_tstr", "dice_shown/left half"} <= set(metrics)
    assert (
        "mean volume of a class in label maps, synthetic over real; left half" in (report / "report.html").read_text()
    )
