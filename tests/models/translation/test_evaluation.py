from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.evaluation.report.paired import slice_axis
from medsynth.models.translation.evaluation import discriminator_aucs
from medsynth.models.translation.network import Translator, UNetVae
from medsynth.models.translation.pair_slices import PairDataset
from medsynth.run.recipe import LoadedModel


class Brightness(nn.Module):
    """Takes bright slices for real, at two scales, of which the second has no opinion."""

    def forward(self, image):
        return [(image.mean((2, 3), keepdim=True), []), (torch.zeros(len(image), 1, 1, 1), [])]


@pytest.fixture
def dataset(tmp_path):
    """Two subjects on one grid; the target of the first is brighter than its source, that of the second darker."""
    x, y, _ = np.meshgrid(*[np.linspace(-1.2, 1.2, 16)] * 3, indexing="ij")
    radius = x**2 + y**2
    entries = []
    for name, source, target in (("a", 150, 300), ("b", 300, 150)):
        entry = {"subject": name, "label": None}
        for key, value in (("source", source), ("target", target)):
            noise = np.random.default_rng(0).integers(-5, 5, radius.shape)
            voxels = np.where(radius < 0.9, value + noise, 0).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, np.diag([4.0, 4, 4, 1])), tmp_path / f"{name}_{key}.nii.gz")
            entry[key] = str(tmp_path / f"{name}_{key}.nii.gz")
        entries.append(entry)
    preprocessing = Preprocessing("mri", (0.0, 400.0), None, 16)
    return PairDataset(entries, preprocessing, preprocessing, cache_dir=tmp_path)


@pytest.mark.parametrize(("direction", "expected"), [("source_to_target", (1, 0)), ("target_to_source", (0, 1))])
def test_the_discriminator_of_the_made_domain_compares_real_slices_with_translations(
    dataset, direction, expected, monkeypatch
):
    monkeypatch.setattr(UNetVae, "forward", lambda _, image, position, sample: image)
    judges = nn.ModuleDict({"source": Brightness(), "target": Brightness()})
    model = LoadedModel(Translator(16, 0, [8], 2, [3, 5], True), {}, [], {}, "", {}, discriminator=judges)
    assert discriminator_aucs(model, dataset, direction) == dict(zip("ab", expected, strict=True))


@pytest.mark.parametrize(
    ("codes", "plane", "axis"),
    [("RAS", "axial", 2), ("PSR", "axial", 1), ("LSA", "coronal", 2), ("PSR", "sagittal", 2)],
)
def test_slices_follow_each_other_along_the_axis_that_goes_through_their_plane(codes, plane, axis):
    image = nib.Nifti1Image(np.zeros((4, 5, 6)), np.diag([1.0, 2, 3, 1]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    assert slice_axis(image.as_reoriented(turn).affine, plane) == axis
