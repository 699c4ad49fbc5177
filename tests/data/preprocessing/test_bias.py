from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.phantom.anatomy import build_head
from medsynth.data.phantom.phantom import draw_modality
from medsynth.data.preprocessing.bias import CorrectBias
from medsynth.data.preprocessing.pipelines import Preprocessing, locate
from medsynth.errors import MedsynthError

MRI = Preprocessing("mri", None, None, 64)


def test_a_bias_field_is_corrected_and_the_grid_is_unchanged():
    head = build_head(1, "NC", 5.0)
    volume = MetaTensor(torch.from_numpy(draw_modality(head, "T1w", 1)).float()[None], affine=head.affine)
    shade = torch.linspace(0.7, 1.3, volume.shape[2])[:, None]
    even, again = (CorrectBias()({Keys.IMAGE: v})[Keys.IMAGE] for v in (volume, volume * shade))
    inside = volume > 0.3 * volume.max()
    ratio = (again / even).as_tensor()[inside]
    assert ratio.std() / ratio.mean() < 0.5 * shade.expand(volume.shape)[inside].std()
    np.testing.assert_array_equal(again.affine, head.affine)
    changed = (even / volume).as_tensor()[inside]
    assert changed.log().mean().abs() < 0.1  # its mean brightness is unchanged


def test_the_mri_pipeline_corrects_bias_only_when_asked():
    def names(preprocessing: Preprocessing) -> list[str]:
        return [type(step).__name__ for step in locate(preprocessing)]

    assert "CorrectBias" not in names(MRI)
    corrected = names(Preprocessing.from_dict(MRI.to_dict() | {"bias_correction": True}))
    assert corrected.index("CorrectBias") < corrected.index("FindPatient")


def test_hounsfield_units_are_not_corrected():
    with pytest.raises(MedsynthError, match="bias_correction is for modality mri"):
        Preprocessing("ct", None, None, 64, bias_correction=True)
