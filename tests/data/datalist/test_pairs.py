from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist import datalist
from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.pairs import check_alignment, find_pairs, pair_domains, read_pair
from medsynth.data.io import sources
from medsynth.data.phantom.anatomy import build_head
from medsynth.data.phantom.phantom import draw_modality
from medsynth.errors import MedsynthError


@pytest.fixture
def empty(tmp_path):
    """Make small volumes of these names."""

    def make(*names: str):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), tmp_path / name)
        return tmp_path

    return make


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two made-up heads, T1w and CT; the header of b's CT is 12 mm off."""
    folder = tmp_path_factory.mktemp("heads")
    for seed, name in enumerate("ab"):
        head = build_head(seed, "NC", 5.0)
        for modality in ("T1w", "CT"):
            affine = head.affine.copy()
            affine[1, 3] += 12 * (name == "b" and modality == "CT")
            image = nib.Nifti1Image(draw_modality(head, modality, seed)[..., 2 * (modality == "CT") :], affine)
            image.affine[:3, 3] += 2 * (modality == "CT") * affine[:3, 2]
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), folder / f"{name}_{modality}.nii.gz")
    return folder


def matched(found, folder):
    return sorted(
        tuple(str(entry[key]).removeprefix(f"{folder}/") if key in entry else None for key in datalist.PAIR)
        for entry in found.entries
    )


def test_each_subject_s_images_are_matched_and_single_ones_are_noted(empty):
    folder = empty("p1_T1w.nii.gz", "p1_FLAIR.nii.gz", "p2_T1w.nii.gz", "p2_T2w.nii.gz")
    found = find_pairs(folder, "*_T1w.nii.gz", "*_FLAIR.nii.gz")
    assert matched(found, folder) == [("p1_T1w.nii.gz", "p1_FLAIR.nii.gz"), ("p2_T1w.nii.gz", None)]
    assert any(note.startswith("1 images have no target") and "p2" in note for note in found.notes)


def test_sessions_of_a_subject_are_not_mixed(empty):
    names = [f"sub-1/ses-{s}/anat/sub-1_ses-{s}_{c}.nii.gz" for s in (1, 2) for c in ("T1w", "FLAIR")]
    folder = empty(*names)
    found = find_pairs(folder, "*_T1w.nii.gz", "*_FLAIR.nii.gz")
    assert matched(found, folder) == [(names[0], names[1]), (names[2], names[3])]


def test_images_in_a_folder_for_each_subject_are_matched(empty):
    folder = empty("1BA001/mr.nii.gz", "1BA001/ct.nii.gz", "1BA005/mr.nii.gz", "1BA005/ct.nii.gz")
    found = find_pairs(folder, "mr.nii.gz", "ct.nii.gz")
    assert matched(found, folder) == [(f"{s}/mr.nii.gz", f"{s}/ct.nii.gz") for s in ("1BA001", "1BA005")]


def test_an_image_cannot_be_source_and_target(empty):
    with pytest.raises(MedsynthError, match="matches --source .* and --target"):
        find_pairs(empty("p1_T1w.nii.gz"), "*.nii.gz", "*_T1w.nii.gz")


def test_only_the_pair_whose_header_is_off_is_named(heads):
    found = find_pairs(heads, "*_T1w.nii.gz", "*_CT.nii.gz")
    check_alignment(found)
    named = [note for note in found.notes if "not aligned" in note]
    assert len(named) == 1
    assert named[0].startswith("b: not aligned, 1")
    assert any(note.startswith("1 of 2 pairs are aligned: give --register") for note in found.notes)


def test_registered_targets_lie_on_their_source_s_grid_in_their_own_units(heads, tmp_path):
    found = find_pairs(heads, "*_T1w.nii.gz", "*_CT.nii.gz")
    check_alignment(found, tmp_path / "registered")
    assert sorted(path.name for path in (tmp_path / "registered").iterdir()) == ["a_CT.nii.gz", "b_CT.nii.gz"]
    assert any(note.startswith("2 of 2 pairs are aligned") for note in found.notes)
    for entry in found.entries:
        source, target = nib.load(entry["source"]), nib.load(entry["target"])
        assert target.shape == source.shape
        np.testing.assert_allclose(target.affine, source.affine, atol=1e-4)
        assert target.get_data_dtype() == np.int16
        assert b"registered" in target.header["descrip"].item()
        truth = draw_modality(build_head("ab".index(entry["subject"]), "NC", 5.0), "CT", "ab".index(entry["subject"]))
        assert np.corrcoef(np.asarray(target.dataobj)[..., 4:].ravel(), truth[..., 4:].ravel())[0, 1] > 0.9


def test_a_pair_that_cannot_be_read_is_left_out_with_the_reason(heads, tmp_path):
    for path in heads.glob("a_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = find_pairs(tmp_path, "*_T1w.nii.gz", "*_CT.nii.gz")
    whole = (tmp_path / "a_CT.nii.gz").read_bytes()
    (tmp_path / "a_CT.nii.gz").write_bytes(whole[: len(whole) // 2])
    check_alignment(found)
    assert found.entries == []
    assert "a_CT.nii.gz" in found.left_out[tmp_path / "a_T1w.nii.gz"]


@pytest.mark.parametrize(("value", "line"), [(np.nan, "NaN or infinite"), (0, "the same value everywhere")])
def test_a_pair_with_invalid_values_is_left_out(heads, tmp_path, value, line):
    (tmp_path / "a_T1w.nii.gz").write_bytes((heads / "a_T1w.nii.gz").read_bytes())
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), value, np.float32), np.eye(4)), tmp_path / "a_CT.nii.gz")
    found = find_pairs(tmp_path, "*_T1w.nii.gz", "*_CT.nii.gz")
    check_alignment(found)
    assert found.entries == []
    assert line in found.left_out[tmp_path / "a_T1w.nii.gz"]


def test_a_pair_is_read_on_the_source_s_grid(heads):
    entry = {"source": str(heads / "a_T1w.nii.gz"), "target": str(heads / "a_CT.nii.gz")}
    source, target = read_pair(entry)
    assert source.shape == target.shape
    np.testing.assert_allclose(source.affine, target.affine)
    own = sources.read_volume(entry["target"])
    np.testing.assert_allclose(target[..., 2:], own, atol=1)  # the same grid, but for two slices


def test_pairs_survive_writing_and_are_checked_like_images(empty, tmp_path):
    folder = empty("p1_T1w.nii.gz", "p1_FLAIR.nii.gz", "p2_T1w.nii.gz")
    found = find_pairs(folder, "*_T1w.nii.gz", "*_FLAIR.nii.gz")
    splits = datalist.split_by_patient(found.entries, (1, 0, 0))
    datalist.write(tmp_path / "pairs.json", datalist.Datalist("pairs", splits))
    assert datalist.read(tmp_path / "pairs.json", datalist.PAIR).splits == splits
    with pytest.raises(MedsynthError, match='has no "image": these are pairs, for bundles/translation'):
        datalist.read(tmp_path / "pairs.json")
    (tmp_path / "none.json").write_text(json.dumps({"training": [{"subject": "p1"}]}))
    with pytest.raises(MedsynthError, match='has no "image": each needs "image" and "subject"'):
        datalist.read(tmp_path / "none.json")
    singles = {"training": [{"image": "p1_T1w.nii.gz", "subject": "p1"}]}
    (tmp_path / "single.json").write_text(json.dumps(singles))
    with pytest.raises(MedsynthError, match='entry 1 has no "source" or "target": the pairs are in .*pairs.json'):
        datalist.read(tmp_path / "single.json", datalist.PAIR)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "pairs.json").write_text(json.dumps(singles))
    with pytest.raises(MedsynthError, match='no "source" or "target": each needs "source" or "target" and "subject"'):
        datalist.read(tmp_path / "one" / "pairs.json", datalist.PAIR)
    (tmp_path / "p1_FLAIR.nii.gz").unlink()
    with pytest.raises(MedsynthError, match=r"1 of 3 images do not exist, the first is .*p1_FLAIR"):
        datalist.read(tmp_path / "pairs.json", datalist.PAIR)


@pytest.fixture
def domains(tmp_path):
    """Write eight pictures of each domain, two splits: B shows a disc and a square where A does, inverted."""

    def write(order=tuple(range(8)), count=8):
        rows, columns = np.mgrid[:40, :40]
        for number in range(count):
            for domain, shown in (("A", number), ("B", order[number])):
                where = np.random.default_rng(shown).integers(8, 32, 4)
                disc = np.hypot(rows - where[0], columns - where[1]) < 8
                square = (abs(rows - where[2]) < 6) & (abs(columns - where[3]) < 6)
                values = np.select([disc, square], [90, 200], 20)
                split, kind = "test" if number > 5 else "train", {"A": "ct", "B": "mri"}[domain]
                path = tmp_path / f"{split}{domain}" / f"{kind}{number}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray((255 - values if domain == "B" else values).astype(np.uint8)).save(path)
        return survey(tmp_path)

    return write


def test_pictures_of_two_domains_that_show_the_same_slices_are_paired_in_their_splits(domains, tmp_path):
    found = domains()
    pair_domains(found)
    assert matched(found, tmp_path) == sorted(
        (f"{split}A/ct{i}.png", f"{split}B/mri{i}.png") for i, split in enumerate(["train"] * 6 + ["test"] * 2)
    )
    assert [len(found.splits[split]) for split in datalist.SPLITS] == [6, 0, 2]
    assert "8 pairs by equal names or numbers; 100% of those" in found.notes[-1]


def test_pictures_of_equal_numbers_that_show_other_slices_are_not_paired(domains):
    found = domains(order=(3, 4, 5, 0, 1, 2, 7, 6))
    pair_domains(found)
    assert len(found.entries) == 16
    assert not [entry for entry in found.entries if entry.keys() >= set(datalist.PAIR)]
    assert "8 pictures of both domains have equal names, but only" in found.notes[-1]


def test_too_few_pictures_to_compare_are_not_paired_and_a_note_says_how_to_pair_them(domains):
    found = domains(count=3)
    pair_domains(found)
    assert len(found.entries) == 6
    assert "3 pictures of equal names are too few or too uniform to compare: give --source" in found.notes[-1]


def test_domains_without_common_names_are_left_alone(domains, tmp_path):
    domains()
    for path in tmp_path.glob("*B/*"):
        path.rename(path.with_name(f"other{int(path.stem[3:]) + 100}.png"))
    found = survey(tmp_path)
    pair_domains(found)
    assert len(found.entries) == 16
    assert found.notes[-1].startswith("no names or numbers of the two domains match")


def test_pictures_cannot_be_registered(domains, tmp_path):
    found = domains()
    pair_domains(found)
    with pytest.raises(MedsynthError, match="--register aligns volumes"):
        check_alignment(found, tmp_path / "registered")
    assert not (tmp_path / "registered").exists()
