from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_networks import RRDB

from medsynth.data.datalist import datalist
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import as_line
from medsynth.models.superres.network import RRDBNet
from medsynth.run.recipe import save_model

METHODS = {"nearest", "bicubic", "Lanczos", "spline", "zero-filling"}
KEYS = {"value", "unit", "direction", "n", "interval", "floor", "baseline", "note", "seed", "data_range", "mask"}


def save(path: Path, scale: int = 2) -> Path:
    """model.pt of a tiny network that has learned nothing."""
    arguments = RRDB | {"scale": scale}
    definition = {"_target_": "medsynth.models.superres.network.RRDBNet"} | arguments
    save_model(path, RRDBNet(**arguments), definition, Preprocessing("mri", None, None, 32).to_dict())
    return path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def evaluate(run_bundle, heads) -> Callable[..., Path]:
    """Evaluate into a folder, which is returned."""

    def run(output: Path, checkpoint: Path, **overrides: object) -> Path:
        options = {"real": str(heads), "split": "both", "device": "cpu", "slices_per_subject": 4} | overrides
        run_bundle(
            "evaluation", "superres/evaluate.json", checkpoint=str(checkpoint), output_dir=str(output), **options
        )
        return output

    return run


@pytest.fixture(scope="module")
def report(evaluate, untrained, tmp_path_factory) -> Path:
    """Of a run with a second stage, which has changed nothing."""
    shutil.copy(untrained, untrained.with_name("model_first_stage.pt"))
    return evaluate(tmp_path_factory.mktemp("superres") / "evaluation", untrained)


def test_a_report_has_every_method_in_one_table_and_every_number_what_it_takes_to_read_it(report, heads):
    metrics = json.loads((report / "metrics.json").read_text())
    assert all(values.keys() >= KEYS for values in metrics.values())
    assert all(f"{name}_{method}" in metrics for method in METHODS for name in ("psnr_head", "ssim", "resolution_mm"))
    held_out = [entry["subject"] for split in ("validation", "test") for entry in datalist.read(heads).splits[split]]
    with (report / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["subject"] for row in rows) == sorted(held_out)
    assert metrics["psnr_head"]["value"] == pytest.approx(np.mean([float(row["psnr_head_network"]) for row in rows]))
    names = {path.name for path in (report / "figures").iterdir()}
    assert names >= {"images_0.png", "ring_correlation.png"}


def test_what_has_learned_nothing_is_as_good_as_zero_filling_and_no_better(report):
    metrics = json.loads((report / "metrics.json").read_text())
    for name in ("psnr_head", "ssim_head", "resolution_mm"):
        assert metrics[name]["value"] == pytest.approx(metrics[f"{name}_zero-filling"]["value"], rel=0.01)
    assert metrics["psnr_head"]["value"] > metrics["psnr_head_nearest"]["value"]


def test_the_page_needs_nothing_from_elsewhere_and_has_a_verdict(report):
    html = (report / "report.html").read_text()
    for word in (
        "Closeness",
        "Resolution",
        "Lanczos",
        "data range",
        "+0.00 dB of PSNR inside the patient beside the first stage",
    ):
        assert word in html
    assert "http://" not in html
    assert 'src="http' not in html


def test_inference_doubles_the_grid_of_each_volume_in_a_datalist(run_bundle, heads, untrained, tmp_path):
    run_bundle("inference", "superres/inference.json", checkpoint=str(untrained), input=str(heads),
               output_dir=str(tmp_path / "out"), device="cpu")  # fmt: skip
    entries = datalist.read(heads).entries
    made = sorted((tmp_path / "out/images").glob("superres_x2_*.nii.gz"))
    assert len(made) == len(entries)
    for path, entry in zip(made, entries, strict=True):
        fine, coarse = nib.load(path), nib.load(entry["image"])
        assert np.prod(fine.shape) == 4 * np.prod(coarse.shape)
        corners = [nib.affines.apply_affine(i.affine, np.subtract([[0, 0, 0], i.shape], 0.5)) for i in (fine, coarse)]
        np.testing.assert_allclose(*corners, atol=1e-3)


def mistake(run: Callable[[], object]) -> str:
    """What a user is told."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run()
    return as_line(caught.value) or repr(caught.value)


def test_mistakes_are_told_in_one_line_and_leave_nothing_behind(
    run_bundle, evaluate, untrained, heads, report, tmp_path
):
    def infer(**overrides):
        options = {"checkpoint": str(untrained), "output_dir": str(tmp_path / "out"), "device": "cpu"} | overrides
        return lambda: run_bundle("inference", "superres/inference.json", **options)

    assert "there is no input: give a volume" in mistake(infer())
    assert "scale is 8, and this model makes x2: no model makes that" in mistake(infer(input=str(heads), scale=8))
    assert "tile_size is 0" in mistake(infer(input=str(heads), tile_size=0))
    assert "the nearest valid key is 'ensemble'" in mistake(infer(input=str(heads), ensembel=True))
    assert "is there already" in mistake(lambda: evaluate(report, untrained))
    assert "datalist nowhere.json" in mistake(lambda: evaluate(tmp_path / "out", untrained, real="nowhere.json"))
    assert "slices_per_subject is 0" in mistake(lambda: evaluate(tmp_path / "out", untrained, slices_per_subject=0))
    assert not (tmp_path / "out").exists()


def test_another_model_is_not_taken_for_comparison(evaluate, untrained, tmp_path):
    other = save(tmp_path / "other.pt", scale=4)
    line = mistake(lambda: evaluate(tmp_path / "out", untrained, compare=str(other)))
    assert "compare has scale 4, and checkpoint 2" in line
