from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsynth.data.io.sources import Source
from medsynth.errors import MedsynthError
from medsynth.evaluation.report.paired import load
from medsynth.evaluation.report.predictions import Pair


@pytest.fixture
def loaded(tmp_path, save, head):
    """A pair whose mask is written by the caller, as it is loaded."""
    target = Source(str(save(tmp_path / "ct.nii.gz", head())))

    def run(mask: np.ndarray, mm=(2, 2, 2)):
        path = Source(str(save(tmp_path / "mask.nii.gz", mask, mm)))
        return load(Pair("p1", target, target, None, path, None), "mri")

    return run


def test_a_mask_is_taken_as_it_is(loaded, head):
    np.testing.assert_array_equal(loaded((head() > 0).astype(np.uint8)).mask, head() > 0)


def test_a_mask_on_another_grid_is_resampled_with_a_note(loaded, head, caplog):
    coarse = loaded((head()[::2, ::2, ::2] > 0).astype(np.uint8), (4, 4, 4)).mask
    assert coarse.shape == head().shape
    assert (coarse & (head() > 0)).sum() / (coarse | (head() > 0)).sum() > 0.75
    assert "p1: the mask" in caplog.text
    assert "it is resampled" in caplog.text


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (np.zeros((24, 30, 26), np.uint8), "is an empty mask"),
        (np.zeros((9, 9, 9), np.uint8), "is an empty mask"),
        (np.arange(24 * 30 * 26, dtype=np.float32).reshape(24, 30, 26), "is no mask: it holds 18720 values"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_with_its_subject(loaded, mask, line):
    with pytest.raises(MedsynthError, match=rf"^p1: the mask .*mask.nii.gz {line}"):
        loaded(mask)


def test_a_mask_of_pictures_of_another_size_is_named_with_its_subject(tmp_path):
    for name, size in (("target.png", 8), ("mask.png", 6)):
        Image.fromarray(np.full((size, size), 9, np.uint8)).save(tmp_path / name)
    target, mask = (Source(str(tmp_path / name)) for name in ("target.png", "mask.png"))
    with pytest.raises(
        MedsynthError, match=r"^p1: the mask .*mask.png is of \(6, 6\) pixels where the target has \(8, 8\)"
    ):
        load(Pair("p1", target, target, None, mask, None), "image")
