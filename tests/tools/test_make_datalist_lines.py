"""What make_datalist prints: the next command, what an image is called, what was chosen and left out."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from medsynth.data.datalist import datalist


@pytest.fixture
def lines(make, tmp_path, capsys):
    """Run the tool on `tmp_path / "scans"`; returns what it printed, by the first word, and the datalist."""

    def run(*options, keys=datalist.IMAGE):
        make(tmp_path / "scans", tmp_path / "my list.json", *options)
        printed = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
        return {name: rest.strip() for name, _, rest in printed}, datalist.read(tmp_path / "my list.json", keys)

    return run


def test_the_next_command_trains_on_the_list(lines, tmp_path, save, head):
    for i in range(3):
        save(tmp_path / "scans" / f"p{i}_CT.nii.gz", head(seed=i) - np.int16(1000))
    printed, _ = lines()
    words = shlex.split(printed["next:"])
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options == {
        "--config_file": "bundles/vaegan/train.json",
        "--datalist": str(tmp_path / "my list.json"),
        "--modality": "ct",
        "--output_dir": "runs/my list",
    }


def test_pairs_are_chosen_and_said_and_have_their_mask(lines, tmp_path, save, head):
    for i in range(3):
        for name, volume in (("mr", head(seed=i)), ("ct", head(seed=i) - 1000), ("mask", head(seed=i) > 0)):
            save(tmp_path / "scans" / f"1BA00{i}" / f"{name}.nii.gz", np.asarray(volume, np.int16))
    printed, written = lines(keys=datalist.PAIR)
    assert printed["pairs"].startswith(
        "ct (3), mr (3): --source 'mr.nii.gz' and --target 'ct.nii.gz' were chosen; give"
    )
    assert printed["masks"].startswith("3, such as ")
    assert "bundles/translation/train.json" in printed["next:"]
    assert all(Path(entry["mask"]).parent == Path(entry["target"]).parent for entry in written.entries)


def test_several_contrasts_are_followed_by_the_command_that_chooses(lines, tmp_path, save, head):
    for i in range(8):
        for name in ("T1w", "FLAIR"):
            save(tmp_path / "scans" / f"p{i}_{name}.nii.gz", head(seed=i))
    printed, _ = lines("--seed", 4)
    assert "several contrasts in one list, FLAIR (8), T1w (8)" in printed["note"]
    words = shlex.split(printed["next:"])
    assert words[-5:] == ["--seed", "4", "--pattern", "*_T1w.nii.gz", "--overwrite"]
    assert words[2:4] == [str(tmp_path / "scans"), str(tmp_path / "my list.json")]


def test_a_dicom_series_is_named_by_its_folder_and_the_number_of_its_files(lines, tmp_path, slices, store, head):
    store(tmp_path / "scans" / "p1", slices(head()))
    store(tmp_path / "scans" / "p2", slices(np.zeros((9, 9, 9), np.int16)))
    printed, _ = lines("--split", 1, 0, 0)
    assert printed["images"] == f"1: 26 files of {tmp_path / 'scans' / 'p1'}"
    assert f"9 files of {tmp_path / 'scans' / 'p2'} holds the same value everywhere: export it again" in printed[""]
    assert (
        printed["note"] == "there is one subject only: inference can use this list, training needs two patients or more"
    )
    assert "next:" not in printed


def test_the_values_are_not_looked_at_if_it_has_to_be_quick(lines, tmp_path, save, head):
    save(tmp_path / "scans" / "p1.nii.gz", head())
    save(tmp_path / "scans" / "p2.nii.gz", np.zeros((9, 9, 9), np.int16))
    assert len(lines("--quick")[1].entries) == 2
    assert len(lines("--overwrite")[1].entries) == 1


def test_what_is_left_out_for_one_reason_is_said_once(lines, tmp_path, save, head):
    for i in range(5):
        save(tmp_path / "scans" / f"p{i}_T1w.nii.gz", head(seed=i))
        save(tmp_path / "scans" / f"p{i}_lesion_mask.nii.gz", head(seed=i))
    printed, _ = lines()
    assert printed["left"] == "out        5"
    assert "p0_lesion_mask.nii.gz is a label map by its name" in printed[""]
    assert printed[""].endswith("(and 4 more)")
