from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing
from medsynth.evaluation.report.compared_sets import Preparation
from medsynth.evaluation.report.synthetic import find
from medsynth.evaluation.report.volumes.volume_sets import _on_grid, _prepared, are_volumes

SIZE = (16, 24, 16)


@pytest.mark.parametrize(
    ("shape", "size", "settings", "expected"),
    [
        (SIZE, list(SIZE), {}, True),
        ((16, 16, 1), None, {}, False),  # a slice
        (SIZE, 64, {}, False),  # a volume that a model of slices made
        (SIZE, None, {}, True),  # from elsewhere
        (SIZE, None, {"image_size": 32}, False),
    ],
)
def test_what_is_compared_as_volumes(tmp_path, shape, size, settings, expected):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    if size is not None:
        key = "size" if isinstance(size, list) else "image_size"
        (tmp_path / "a.json").write_text(json.dumps({"Preprocessing": {key: size}}))
    assert are_volumes(str(tmp_path), Preparation(**settings)) is expected


def test_generated_volumes_come_back_as_they_were_whatever_their_orientation(tmp_path):
    values = np.random.default_rng(0).random(SIZE).astype(np.float32)
    image = nib.Nifti1Image(values * 400 - 100, np.diag([4.0, 4, 4, 1]))
    nib.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), tmp_path / "a.nii.gz")
    sidecar = {"Preprocessing": {}, "IntensityBounds": [-100, 300], "Label": "AD"}
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    grid = VolumePreprocessing("mri", None, (4.0, 4.0, 4.0), SIZE)
    volumes, names, bad = _on_grid(find(str(tmp_path)), grid, 0.1)
    assert volumes.volumes[0] == pytest.approx(values, abs=0.5 / 255 + 1e-6)
    assert (names, bad, volumes.flat.labels.tolist()) == (["a.nii.gz"], [], ["AD"])


def test_real_volumes_are_brought_to_the_grid_with_their_subjects_and_classes(study, tmp_path):
    grid = VolumePreprocessing("mri", None, (4.0, 4.0, 4.0), SIZE, "head", finer=2)
    made, maps = _prepared(study, grid, Preparation(cache_dir=str(tmp_path)), ["AD", "NC"], "real", seed=0)
    assert maps is None
    assert (len(made), made.size) == (12, SIZE)
    assert made.subjects.tolist() == [entry["subject"] for entry in study]
    assert made.flat.labels[:2].tolist() == ["NC", "AD"]
    assert 0.2 < made.volumes.max() <= 1
