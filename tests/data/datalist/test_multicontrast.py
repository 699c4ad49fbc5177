from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.datalist import datalist, pairs
from medsynth.data.datalist.datalist import PAIR, files_of
from medsynth.data.datalist.multicontrast import known_contrast, sources_of_target
from medsynth.data.datalist.pairs import check_alignment, find_pairs, read_entry
from medsynth.errors import MedsynthError

BRATS = {"t1n": 10, "t1c": 20, "t2w": 30, "t2f": 40}


@pytest.fixture
def folder(tmp_path):
    """Write tiny volumes of the given names, on one grid unless told otherwise."""

    def write(*names: str, shape: tuple[int, int, int] = (4, 5, 6)) -> Path:
        for name in names:
            path = tmp_path / "scans" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) + len(name)
            nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), path)
        return tmp_path / "scans"

    return write


def named(found) -> list[tuple[str, dict[str, str]]]:
    """Subject, and the names of the files by key."""
    return [(e["subject"], {key: Path(file).name for key, file in files_of(e).items()}) for e in found.entries]


def test_contrasts_of_a_subject_are_one_entry_in_which_some_may_be_missing(folder):
    scans = folder("a1_T1w.nii.gz", "a1_T2w.nii.gz", "a1_FLAIR.nii.gz", "b2_T2w.nii.gz", "b2_FLAIR.nii.gz")
    found = find_pairs(scans, ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    assert named(found) == [
        ("a1", {"source T1w": "a1_T1w.nii.gz", "source T2w": "a1_T2w.nii.gz", "target": "a1_FLAIR.nii.gz"}),
        ("b2", {"source T2w": "b2_T2w.nii.gz", "target": "b2_FLAIR.nii.gz"}),
    ]
    assert found.entries[1]["source"] == found.entries[1]["sources"]["T2w"]
    assert "1 subjects have no T1w, the first is of b2" in found.notes


def test_sessions_of_a_subject_are_entries_of_their_own(folder):
    names = [f"sub-1_ses-{n}_{contrast}.nii.gz" for n in (1, 2) for contrast in ("T1w", "T2w", "FLAIR")]
    found = find_pairs(folder(*names), ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    assert [set(files.values()) for _, files in named(found)] == [set(names[:3]), set(names[3:])]


def test_contrasts_without_a_known_name_are_called_as_their_pattern_says(folder):
    scans = folder("sub-1_blue.nii.gz", "sub-1_red.nii.gz", "sub-1_CT.nii.gz")
    (entry,) = find_pairs(scans, ["*_blue*", "*_red.nii.gz"], "*_CT*").entries
    assert list(entry["sources"]) == ["blue", "red"]


@pytest.mark.parametrize(
    ("names", "sources", "told"),
    [
        (["a1_run-1_T1w", "a1_run-2_T1w", "a1_T2w"], ["*_T1w*", "*_T2w*"], "a1 has two files of T1w"),
        (["x/sub-1_T1w", "y/sub-1_T1w", "x/sub-1_T2w"], ["*_T1w*", "*_T2w*"], "sub-1 has two files of T1w"),
        (["a1_T1w"], ["*_T1w*", "*_T2w*"], r"holds no image named \*_T2w\*"),
        (["a1_T1w"], ["*_T1w*", "*_T1w.nii.gz"], "are both T1w: give one of them"),
        (["a1_T1w", "a1_T2w"], ["*_T1w*", "*_T?w*"], r"matches --source \*_T1w\* and --source \*_T\?w\*"),
        (["b1_T1w", "b1_T2w"], ["*_T1w*", "*_FLAIR*"], "FLAIR"),
    ],
)
def test_what_is_not_clear_is_told(folder, names, sources, told):
    scans = folder(*(f"{name}.nii.gz" for name in (*names, "a1_FLAIR")))
    with pytest.raises(MedsynthError, match=told):
        find_pairs(scans, sources, "*_FLAIR*")


def test_a_subject_without_any_source_is_left_out_by_name(folder):
    scans = folder("a1_T1w.nii.gz", "a1_T2w.nii.gz", "a1_FLAIR.nii.gz", "b2_FLAIR.nii.gz")
    found = find_pairs(scans, ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    assert [subject for subject, _ in named(found)] == ["a1"]
    assert list(found.left_out.values()) == ["is of b2, who has none of the sources T1w, T2w"]


def test_headers_tell_that_contrasts_are_on_one_grid(folder, monkeypatch):
    found = find_pairs(folder("a1_T1w.nii.gz", "a1_T2w.nii.gz", "a1_FLAIR.nii.gz"), ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    monkeypatch.setattr(pairs, "read_contrasts", lambda source: pytest.fail("voxels were read"))
    check_alignment(found)
    assert found.left_out == {}


def test_contrasts_on_different_grids_are_refused_by_subject_and_files(folder):
    scans = folder("a1_T1w.nii.gz", "a1_FLAIR.nii.gz")
    folder("a1_T2w.nii.gz", shape=(4, 5, 7))
    found = find_pairs(scans, ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    for attempt in (check_alignment, lambda found: read_entry(found.entries[0])):
        with pytest.raises(MedsynthError, match=r"a1_T2w.nii.gz are on different grids \(4 x 5 x 6 and 4 x 5 x 7") as e:
            attempt(found)
    with pytest.raises(MedsynthError, match=r"^a1: .*a1_T1w.nii.gz and .*a1_T2w.nii.gz are on different grids"):
        check_alignment(found)
    assert "--register" in str(e.value)


def test_all_contrasts_and_the_target_are_registered_to_the_first(tmp_path):
    from medsynth.data.phantom.anatomy import build_head
    from medsynth.data.phantom.phantom import draw_modality

    head = build_head(0, "NC", 6.0)
    for number, contrast in enumerate(("T1w", "T2w", "FLAIR")):
        affine = head.affine.copy()
        affine[2, 3] += 14 * number
        cut = draw_modality(head, contrast, 0)[:, :, number:]
        nib.save(nib.Nifti1Image(cut, affine), tmp_path / f"a1_{contrast}.nii.gz")
    found = find_pairs(tmp_path, ["*_T1w*", "*_T2w*"], "*_FLAIR*")
    check_alignment(found, tmp_path / "registered")
    (entry,) = found.entries
    assert [Path(file).parent.name for file in files_of(entry).values()] == [tmp_path.name, "registered", "registered"]
    images = [nib.load(file) for file in files_of(entry).values()]
    inside = np.s_[4:-4, 4:-4, 4:-4]
    for image, contrast in zip(images[1:], ("T2w", "FLAIR"), strict=True):
        np.testing.assert_allclose(image.affine, images[0].affine, atol=1e-4)
        truth = draw_modality(head, contrast, 0)
        assert np.corrcoef(image.get_fdata()[inside].ravel(), truth[inside].ravel())[0, 1] > 0.9
    assert any(note.startswith("a1, T2w: registered, was ") for note in found.notes)


def test_of_brats_all_other_contrasts_are_sources_of_a_target(folder):
    ids = [f"BraTS-GLI-0000{number}-000" for number in (1, 2)]
    scans = folder(*(f"{one}/{one}-{contrast}.nii.gz" for one in ids for contrast in BRATS))
    sources, target, line = sources_of_target(scans, "T2F")
    assert (sources, target) == (["*-t1n.nii.gz", "*-t1c.nii.gz", "*-t2w.nii.gz"], "*-t2f.nii.gz")
    assert "--source '*-t1n.nii.gz' --source '*-t1c.nii.gz' --source '*-t2w.nii.gz' --target '*-t2f.nii.gz'" in line
    found = find_pairs(scans, sources, target)
    assert [list(entry["sources"]) for entry in found.entries] == [["t1n", "t1c", "t2w"]] * 2


def test_mri_alone_is_the_source_of_a_target_that_is_given_by_a_pattern(folder):
    names = [f"sub-{n}/anat/sub-{n}_{contrast}.nii.gz" for n in (1, 2) for contrast in ("T2w", "T1w", "FLAIR", "CT")]
    scans = folder(*names)
    assert sources_of_target(scans, "*_FLAIR.nii.gz")[0] == ["*_T1w.nii.gz", "*_T2w.nii.gz"]
    assert sorted(sources_of_target(scans, "ct")[0]) == ["*_FLAIR.nii.gz", "*_T1w.nii.gz", "*_T2w.nii.gz"]
    with pytest.raises(MedsynthError, match="no images of --target PD: it has "):
        sources_of_target(scans, "PD")


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("a1_t1w.nii", "T1w"),
        ("T2w/a1.nii", "T2w"),
        ("a1_PD.nii", None),
        ("a1_post_gd.nii", "post_gd"),
        ("a1.nii", None),
    ],
)
def test_a_file_shows_the_contrast_that_its_name_or_folder_says(name, contrast):
    assert known_contrast(Path(name), ["T1w", "T2w", "post_gd"]) == contrast


def listed(tmp_path: Path, *entries: dict, **splits: list) -> Path:
    """A datalist whose files exist."""
    content = {"name": "mine", "training": list(entries)} | splits
    for entry in (e for some in content.values() if isinstance(some, list) for e in some):
        for file in [*(entry["source"].values() if isinstance(entry["source"], dict) else [entry["source"]]), "f.nii"]:
            if file:
                (tmp_path / file).touch()
    (tmp_path / "x.json").write_text(json.dumps(content))
    return tmp_path / "x.json"


def test_a_datalist_of_several_contrasts_is_read_and_written_back(tmp_path):
    both = {"source": {"T1w": "a.nii", "T2w": "b.nii"}, "target": "f.nii", "subject": "a1"}
    one = {"source": {"T1w": None, "T2w": "c.nii"}, "subject": "b2"}
    read = datalist.read(listed(tmp_path, both, one), PAIR)
    assert read.contrasts == ["T1w", "T2w"]
    assert read.splits["training"][1]["sources"] == {"T2w": str(tmp_path / "c.nii")}
    (tmp_path / "sub").mkdir()
    datalist.write(tmp_path / "sub" / "y.json", read)
    written = json.loads((tmp_path / "sub" / "y.json").read_text())["training"]
    assert [entry["source"] for entry in written] == [{"T1w": "../a.nii", "T2w": "../b.nii"}, {"T2w": "../c.nii"}]
    assert "sources" not in written[0]
    assert datalist.read(tmp_path / "sub" / "y.json", PAIR).splits["training"] == read.splits["training"]


def test_a_single_named_contrast_is_one_source(tmp_path):
    read = datalist.read(listed(tmp_path, {"source": {"T1w": "a.nii"}, "subject": "a1"}), PAIR)
    assert read.contrasts == []
    assert read.entries[0]["source"] == str(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([{"source": {"T1w": None}, "target": "f.nii", "subject": "b2"}], "training entry 1, b2, has no source"),
        (
            [{"source": {"T1w": "a.nii"}, "subject": "a1"}, {"source": "b.nii", "subject": "b2"}],
            "b.nii is a source without a contrast, and others are T1w",
        ),
    ],
)
def test_mistakes_in_a_datalist_of_contrasts_are_named(tmp_path, entries, told):
    with pytest.raises(MedsynthError, match=told):
        datalist.read(listed(tmp_path, *entries), PAIR)


def test_a_contrast_that_no_training_subject_has_is_refused(tmp_path):
    held_out = [{"source": {"PD": "p.nii"}, "subject": "c3"}]
    read = datalist.read(listed(tmp_path, {"source": {"T1w": "a.nii"}, "subject": "a1"}, validation=held_out), PAIR)
    with pytest.raises(MedsynthError, match="sources of PD, and no training subject has any"):
        _ = read.contrasts
