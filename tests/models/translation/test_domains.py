from __future__ import annotations

import logging

import pytest

from medsynth.data.datalist import datalist
from medsynth.data.phantom import phantom
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.translation.domains import check_windows, prepare_domains
from medsynth.models.translation.pair_slices import PairDataset

MRI = Preprocessing("mri", None, None, 32)


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("domains") / "phantom"
    phantom.write_dataset(folder, subjects=2, spacing_mm=8.0, modalities=("T1w", "CT"))
    return datalist.read(folder / "pairs.json", datalist.PAIR).split("training")


def test_ct_is_told_by_its_name_and_gets_a_window_with_all_of_the_bone(entries):
    domains = prepare_domains(entries, MRI)
    assert (domains["source"].modality, domains["source"].window) == ("mri", None)
    assert (domains["target"].modality, domains["target"].window) == ("ct", (-1000, 2000))


def test_what_is_given_counts(entries):
    domains = prepare_domains(entries, MRI, ("mri", "mri"), ([0, 500], None))
    assert domains["target"].modality == "mri"
    assert domains["source"].window == (0, 500)


def test_both_domains_have_one_spacing(entries):
    domains = prepare_domains(entries, Preprocessing("mri", None, None, 16))
    assert domains["source"].spacing_mm == domains["target"].spacing_mm
    assert domains["source"].spacing_mm[0] > 8


def test_names_that_merely_contain_ct_are_no_ct():
    files = [{"source": "a/ct_scan_T1w.nii.gz", "target": "a/sub_direct.nii.gz"}]
    domains = prepare_domains(files, Preprocessing("mri", None, (1, 1), 32))
    assert [one.modality for one in domains.values()] == ["mri", "mri"]
    domains = prepare_domains([{"target": "1BA001/ct.nii.gz"}], Preprocessing("mri", None, (1, 1), 32))
    assert domains["target"].modality == "ct"


def made(entries, tmp_path, **window) -> PairDataset:
    windows = (window.get("source"), window.get("target"))
    domains = prepare_domains(entries, MRI, windows=windows)
    return PairDataset(entries, domains["source"], domains["target"], cache_dir=tmp_path)


def test_a_window_that_fits_is_passed_over_in_silence(entries, tmp_path, caplog):
    check_windows(made(entries, tmp_path))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_window_that_cuts_bone_is_told(entries, tmp_path, caplog):
    check_windows(made(entries, tmp_path, target=[-1000, 500]))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "of what the target images show is above 500" in warning
    assert "--target_window" in warning


def test_a_window_that_holds_nothing_is_refused(entries, tmp_path):
    with pytest.raises(MedsynthError, match="no value of the target images lies inside their window, 5000 to 6000"):
        check_windows(made(entries, tmp_path, target=[5000, 6000]))
