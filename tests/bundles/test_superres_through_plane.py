from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medsynth.data.datalist import datalist
from medsynth.errors import as_line
from medsynth.nn.slice_profile import to_slices
from medsynth.run.recipe import load_model

SMALL = {
    "channels": 8,
    "blocks": 1,
    "patch_size": 16,
    "batch_size": 4,
    "max_epochs": 1,
    "epoch_length": 10,
    "val_interval": 1,
    "val_slices": 4,
    "sample_epochs": 1,
    "device": "cpu",
    "direction": "through_plane",
}


@pytest.fixture(scope="module")
def thick(heads, tmp_path_factory) -> Path:
    """A scan alone: a head of 6 mm, in sagittal slices of 18 mm."""
    image = nib.load(datalist.read(heads).splits["test"][0]["image"])
    upright = nib.as_closest_canonical(image)
    fine = np.asarray(upright.dataobj, np.float32)
    fine = fine[: len(fine) // 3 * 3]
    slices = fine.reshape(-1, 3, *fine.shape[1:]).mean(1)
    affine = upright.affine @ nib.affines.from_matvec(np.diag([3, 1, 1]), [1, 0, 0])
    path = tmp_path_factory.mktemp("thick") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(slices, affine), path)
    return path


@pytest.fixture(scope="module")
def trained(trains, thick, tmp_path_factory) -> Path:
    """The folder of a run on one scan alone."""
    return trains("superres/train.json", thick, **SMALL)(tmp_path_factory.mktemp("through") / "run")


def test_a_model_learns_from_one_scan_alone_what_its_header_says(trained):
    model = load_model(trained / "model.pt")
    assert (model.definition["scale"], model.definition["degradation"], model.definition["fill"]) == (3, "box", 1)
    assert model.preprocessing["plane"] == "sagittal"
    log = (trained / "train.log").read_text()
    assert "sagittal slices of 18 mm every 18 mm, to 6 mm: 3 times finer" in log
    assert "ONE SCAN ALONE" in log
    assert "on slices that it has learned from" in log


def test_a_given_profile_is_learned_from_kept_and_used(run_bundle, trains, thick, tmp_path):
    given = [1.0, 3.0, 2.0]
    folder = trains("superres/train.json", thick, **SMALL)(tmp_path / "run", degradation=given)
    model = load_model(folder / "model.pt")
    assert model.definition["degradation"] == model.extra["degradation"] == given
    run_bundle("inference", "superres/inference.json", checkpoint=str(folder / "model.pt"), input=str(thick),
               output_dir=str(tmp_path / "out"), device="cpu")  # fmt: skip
    made, coarse = nib.load(tmp_path / "out/images/superres_through_plane_0000.nii.gz"), nib.load(thick)
    values, measured = (torch.from_numpy(np.asarray(image.dataobj, np.float32)) for image in (made, coarse))
    found = to_slices(values.flatten(1), len(measured), given, 1.0).reshape(measured.shape)
    assert (found - measured).abs().max() < 0.02 * measured.max()  # the scan's own profile is another, a box


def test_its_scan_gets_as_fine_as_its_pixels_and_means_over_slices_stay(run_bundle, trained, thick, tmp_path):
    run_bundle("inference", "superres/inference.json", checkpoint=str(trained / "model.pt"), input=str(thick),
               output_dir=str(tmp_path / "out"), device="cpu")  # fmt: skip
    made, coarse = nib.load(tmp_path / "out/images/superres_through_plane_0000.nii.gz"), nib.load(thick)
    values, measured = (np.asarray(image.dataobj, np.float32) for image in (made, coarse))
    assert made.shape == (3 * coarse.shape[0], *coarse.shape[1:])
    means = values.reshape(-1, 3, *values.shape[1:]).mean(1)
    np.testing.assert_allclose(means, measured, atol=2e-3 * measured.max())


def test_weights_that_are_no_profile_are_told_before_training(refusal, trains, thick):
    told = refusal(trains("superres/train.json", thick, **SMALL), degradation=[1, -1])
    assert told.startswith("error: degradation is [1, -1]: give weights of equally wide parts across a slice")


@pytest.mark.parametrize("of_thick", [False, True])
def test_it_is_evaluated_across_fine_scans_and_in_the_plane_of_thick_ones(
    run_bundle, trained, heads, thick, tmp_path, of_thick
):
    real = heads
    if of_thick:
        other = {"image": datalist.read(heads).entries[0]["image"], "subject": "b"}
        entries = {"training": [other], "validation": [], "test": [{"image": str(thick), "subject": "a"}]}
        real = tmp_path / "thick.json"
        real.write_text(json.dumps({"name": "thick", "modalities": {"0": "T1w"}} | entries))
    run_bundle("evaluation", "superres/evaluate.json", checkpoint=str(trained / "model.pt"), real=str(real),
               output_dir=str(tmp_path / "out"), device="cpu", slices_per_subject=3)  # fmt: skip
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert {"psnr_head", "psnr_head_nearest", "psnr_head_linear", "psnr_head_spline"} <= metrics.keys()
    assert metrics["psnr_head"]["value"] > metrics["psnr_head_nearest"]["value"]
    assert "made coarser 3 times (thick slices, even profile, 1 of" in (tmp_path / "out/report.html").read_text()


def test_scans_that_are_alike_on_all_sides_are_refused(run_bundle, refusal, trains, trained, heads, tmp_path):
    told = refusal(trains("superres/train.json", heads, **SMALL))
    assert "voxels are 6 x 6 x 6 mm, so that there is nothing to gain between slices" in told
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run_bundle("inference", "superres/inference.json", checkpoint=str(trained / "model.pt"), input=str(heads),
                   output_dir=str(tmp_path / "out"), device="cpu")  # fmt: skip
    assert "is not a scan of thick slices: voxels are 6 x 6 x 6 mm" in as_line(caught.value)
    assert not (tmp_path / "out").exists()
