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


def test_a_quick_list_leaves_the_alignment_unseen(make, scans, tmp_path, capsys):
    make(scans, tmp_path / "pairs.json", *PAIRS, "--quick", "--split", 1, 0, 0)
    assert "mm off" not in capsys.readouterr().out


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


@pytest.fixture
def brats(tmp_path):
    """Four small contrasts of six subjects; the first lacks one."""
    for number in range(6):
        for contrast in ("t1n", "t1c", "t2w", "t2f")[number == 0 :]:
            path = tmp_path / "brats" / f"BraTS-GLI-0000{number}-000" / f"BraTS-GLI-0000{number}-000-{contrast}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6) * (1 + number)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return tmp_path / "brats"


@pytest.mark.parametrize(
    "options",
    [("--source", "*-t1n*", "--source", "*-t1c*", "--source", "*-t2w*", "--target", "*-t2f*"), ("--target", "t2f")],
)
def test_several_contrasts_become_the_sources_of_a_target(make, brats, tmp_path, capsys, options):
    make(brats, tmp_path / "x.json", *options)
    entries = datalist.read(tmp_path / "x.json", datalist.PAIR).entries
    contrasts = {entry["subject"]: list(entry["sources"]) for entry in entries}
    assert contrasts.pop("BraTS-GLI-00000") == ["t1c", "t2w"]
    assert list(contrasts.values()) == [["t1n", "t1c", "t2w"]] * 5
    assert all(entry["target"].endswith("t2f.nii.gz") for entry in entries)
    out = capsys.readouterr().out
    assert "1 subjects have no t1n, the first is of BraTS-GLI-00000" in out
    assert "bundles/translation/train.json" in out
    if "--source" not in options:
        assert "--source '*-t1n.nii.gz' --source '*-t1c.nii.gz' --source '*-t2w.nii.gz'" in out


def test_contrasts_on_two_grids_get_one_line_that_names_subject_and_files(make, brats, tmp_path, capsys):
    path = next(brats.glob("*3-000/*t1c*"))
    nib.save(nib.Nifti1Image(np.arange(150, dtype=np.int16).reshape(5, 5, 6), np.eye(4)), path)
    with pytest.raises(SystemExit):
        make(brats, tmp_path / "x.json", "--target", "t2f")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: BraTS-GLI-00003: ")
    assert "-t1n.nii.gz and " in line
    assert "-t1c.nii.gz are on different grids (4 x 5 x 6 and 5 x 5 x 6 voxels)" in line
    assert not (tmp_path / "x.json").exists()
