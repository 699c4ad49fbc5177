from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from gpu_double import pretended_gpu

from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.phantom import default
from medsynth.data.preprocessing.slice_space import VolumeSpace
from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, plain
from medsynth.errors import as_line
from medsynth.inference.image_folder import ImageFolder

GRID = VolumePreprocessing("mri", None, (12.0, 12.0, 12.0), (16, 24, 16), "head", finer=1)
PLANES = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="module")
def generated(heads, cache_dir, tmp_path_factory) -> Path:
    """Real volumes with a little noise, as a generator would write them."""
    data = default.load(str(heads))
    made = VolumeDataset(data.split("training"), GRID, cache_dir=cache_dir)
    stored = torch.from_numpy(made.stored_slices[:]).float()[:, None]
    volumes = (plain(stored, GRID.size, 1)[:, 0].numpy() + 1) / 2
    output = ImageFolder(tmp_path_factory.mktemp("generated"), "volumes", "digest")
    sidecar = {"IntensityBounds": [0.0, 1.0], "Preprocessing": GRID.to_dict()}
    space, rng = VolumeSpace("mri", GRID.spacing_mm, None), np.random.default_rng(0)
    for index, volume in enumerate(volumes[:9]):
        noisy = (volume + 0.02 * rng.standard_normal(volume.shape)).clip(0, 1)
        output.write(f"0_{index:04d}", space.to_units(2 * noisy - 1), space.affine(volume.shape), {}, sidecar)
    output.finish(torch.zeros(1, 1, 8, 8))
    return output.images


@pytest.fixture(scope="module")
def evaluate(run_bundle, heads, cache_dir, short_search) -> Callable[..., Path]:
    def run(output: Path, **overrides: object) -> Path:
        options = {"real": str(heads), "split": "both", "cache_dir": str(cache_dir), "device": "cpu"}
        run_bundle("evaluation", "evaluation/evaluate.json", output_dir=str(output), **options | overrides)
        return output

    return run


@pytest.fixture(scope="module")
def report(evaluate, generated, tmp_path_factory) -> Path:
    return evaluate(tmp_path_factory.mktemp("volumes") / "out", synthetic=str(generated))


def test_volumes_are_measured_in_each_plane_as_a_whole_and_for_copies(report):
    metrics = json.loads((report / "metrics.json").read_text())
    of_slices = {f"{name}/{plane}" for name in ("fd_pca", "swd", "psd", "gradient_ratio", "recall") for plane in PLANES}
    of_volumes = {"fd_pca/volume", "recall/volume", "ms_ssim_pairs/volume", "variance_ratio"}
    assert set(metrics) >= of_slices | of_volumes | {f"step_ratio/{plane}" for plane in PLANES}
    assert set(metrics) >= {"closer_to_train", "copies", "copies_control"}
    assert all(one["value"] is not None or one["note"] for one in metrics.values())
    assert {one["split"] for one in metrics.values()} == {"both"}
    assert metrics["step_ratio/axial"]["value"] > 1  # noise
    assert metrics["variance_ratio"]["floor"] is not None


def test_the_page_shows_three_planes_of_real_synthetic_and_ghosts_and_volumes_to_scroll_through(report):
    html = (report / "report.html").read_text()
    assert "ghosts" in html
    assert html.count('data-name="synthetic"') == html.count('data-name="nearest training"') > 0
    assert {path.name for path in (report / "figures").iterdir()} >= {
        "grid_real.png", "grid_synthetic.png", "grid_baseline.png", "nearest_pairs.png", "against_floor.png",
    }  # fmt: skip


def test_two_held_out_volumes_give_values_without_floors_and_a_gpu_registers(evaluate, generated, tmp_path):
    with pretended_gpu():
        out = evaluate(tmp_path / "out", synthetic=str(generated), split="test", device="cuda")
    metrics = json.loads((out / "metrics.json").read_text())
    ratio = metrics["step_ratio/axial"]
    assert ratio["value"] > 1
    assert ratio["floor"] is None
    assert "2 held-out subjects, needs 4" in ratio["no_floor"]
    assert "needs more than there are features" in metrics["fd_pca/volume"]["note"]
    assert metrics["closer_to_train"]["value"] is not None


def test_volumes_without_sidecars_are_brought_to_a_grid_with_the_real_ones(evaluate, generated, tmp_path):
    shutil.copytree(generated, tmp_path / "images")
    for sidecar in (tmp_path / "images").glob("*.json"):
        sidecar.unlink()
    out = evaluate(tmp_path / "out", synthetic=str(tmp_path / "images"))
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["preprocessing"]["size"] == [16, 24, 16]
    assert facts["preprocessing"]["spacing_mm"] == pytest.approx([12, 12, 12])
    assert json.loads((out / "metrics.json").read_text())["step_ratio/coronal"]["value"] is not None


def test_mistakes_get_one_line(evaluate, generated, tmp_path):
    few, wide = tmp_path / "few", tmp_path / "wide"
    shutil.copytree(generated, few)
    for path in sorted(few.iterdir())[: 2 * 2]:
        path.unlink()
    shutil.copytree(generated, wide)
    for path in wide.glob("*.nii.gz"):
        nib.save(nib.Nifti1Image(np.zeros((16, 24, 24), np.float32), np.eye(4)), path)
    nib.save(nib.Nifti1Image(np.zeros((16, 24, 16, 3), np.float32), np.eye(4)), tmp_path / "frames.nii.gz")
    (tmp_path / "four").mkdir()
    (tmp_path / "frames.nii.gz").rename(tmp_path / "four/frames.nii.gz")
    for line, settings in (
        ("synthetic volumes: 7 volumes, and 8 are needed", {"synthetic": few}),
        ("is 16 x 24 x 24, and its sidecar says 16 x 24 x 16", {"synthetic": wide}),
        ("frames.nii.gz is 4D", {"synthetic": tmp_path / "four"}),
        ("spacing_mm is [4, 4, 4], and the sidecars", {"synthetic": generated, "spacing_mm": [4, 4, 4]}),
        ("inception is for slices", {"synthetic": generated, "inception": "file.pt"}),
    ):
        with pytest.raises(RuntimeError) as stopped:
            evaluate(tmp_path / "out", **{k: str(v) if isinstance(v, Path) else v for k, v in settings.items()})
        assert line in as_line(stopped.value)
        assert not (tmp_path / "out" / "metrics.json").exists()
