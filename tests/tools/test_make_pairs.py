from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.datalist import datalist
from medsynth.data.phantom.anatomy import build_head
from medsynth.data.phantom.phantom import draw_modality

PAIRS = ("--source", "*_T1w.nii.gz", "--target", "*_FLAIR.nii.gz")


@pytest.fixture
def scans(tmp_path):
    """A pair whose FLAIR's header is 15 mm off, and a FLAIR alone."""
    (tmp_path / "scans").mkdir()
    head = build_head(0, "NC", 5.0)
    off = head.affine.copy()
    off[2, 3] += 15
    for name, modality, affine in (("p1", "T1w", head.affine), ("p1", "FLAIR", off), ("p2", "FLAIR", off)):
        image = nib.Nifti1Image(draw_modality(head, modality, 0), affine)
        nib.save(image, tmp_path / "scans" / f"{name}_{modality}.nii.gz")
    return tmp_path / "scans"


def test_a_pair_that_is_off_is_registered_beside_the_datalist(make, scans, tmp_path, capsys):
    make(scans, tmp_path / "pairs.json", *PAIRS, "--register", "--split", 1, 0, 0)
    off = re.search(r"p1: registered, was ([\d.]+) mm off by its headers", capsys.readouterr().out)
    assert float(off[1]) == pytest.approx(15, abs=0.5)
    pair, alone = datalist.read(tmp_path / "pairs.json", datalist.PAIR).splits["training"]
    assert "source" not in alone
    assert pair["target"] == str(tmp_path / "pairs_registered" / "p1_FLAIR.nii.gz")
    source, target = nib.load(pair["source"]), nib.load(pair["target"])
    np.testing.assert_allclose(target.affine, source.affine, atol=1e-4)
    truth = nib.load(scans / "p1_FLAIR.nii.gz").get_fdata()
    inside = np.s_[4:-4, 4:-4, 4:-4]
    assert np.corrcoef(target.get_fdata()[inside].ravel(), truth[inside].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (PAIRS[:2], "pairs need both --source and --target"),
        (("--register",), "give --source and --target"),
        ((*PAIRS[:3], "*_T2w.nii.gz"), "holds no image named *_T2w.nii.gz"),
        ((*PAIRS, "--register"), "pairs_registered is there already"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(make, scans, tmp_path, capsys, options, line):
    (tmp_path / "pairs_registered").mkdir()
    with pytest.raises(SystemExit) as stop:
        make(scans, tmp_path / "pairs.json", *options)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "pairs.json").exists()
