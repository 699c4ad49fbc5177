"""The built-in phantom: heads that differ as people do, in files that do not differ at all."""

import csv
import json
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsynth.data.datalist.datalist import read
from medsynth.data.phantom import trunk
from medsynth.data.phantom.anatomy import GROUPS, LABELS, build_head
from medsynth.data.phantom.phantom import MODALITIES, draw_modality, write_dataset
from medsynth.data.phantom.trunk import build_body
from medsynth.data.preprocessing.foreground import find_patient
from medsynth.errors import MedsynthError


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_head_mm(head, mask) -> np.ndarray:
    """Centre of a mask in world coordinates."""
    return (head.affine @ np.append(np.argwhere(mask).mean(axis=0), 1))[:3]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("phantom") / "heads", 8, 6.0, modalities=MODALITIES).parent


def test_same_seed_gives_the_same_bytes(dataset, tmp_path):
    again = write_dataset(tmp_path / "again", 8, 6.0, seed=0, modalities=MODALITIES).parent
    assert all_bytes(again) == all_bytes(dataset)


def test_another_seed_gives_other_heads(dataset, tmp_path):
    other = write_dataset(tmp_path / "other", 2, 6.0, seed=1).parent
    image = "sub-001/anat/sub-001_T1w.nii.gz"
    assert (other / image).read_bytes() != (dataset / image).read_bytes()


def test_an_image_does_not_depend_on_the_other_modalities_asked_for(dataset, tmp_path):
    alone = write_dataset(tmp_path / "alone", 2, 6.0, modalities=["CT"]).parent
    image = "sub-002/ct/sub-002_CT.nii.gz"
    assert (alone / image).read_bytes() == (dataset / image).read_bytes()


def test_ct_is_in_hounsfield_units():
    head = build_head(0, "NC", 3.0)
    hounsfield, labels = draw_modality(head, "CT", 0).astype(float), head.labels()
    assert np.median(hounsfield[:3]) == pytest.approx(-1000, abs=20)
    assert np.percentile(hounsfield[labels == LABELS["bone"]], 75) > 700
    assert hounsfield[labels == LABELS["white"]].mean() == pytest.approx(30, abs=10)
    assert hounsfield.min() >= -1000
    assert hounsfield.max() < 3000


def test_mri_contrasts_are_those_of_the_modality():
    head = build_head(3, "NC", 3.0)
    labels = head.labels()
    expected = {
        "T1w": ("ventricle", "grey", "white"),
        "T2w": ("white", "grey", "ventricle"),
        "FLAIR": ("ventricle", "white", "grey"),
    }
    for modality, tissues in expected.items():
        image = draw_modality(head, modality, 3)
        means = [image[labels == LABELS[tissue]].mean() for tissue in tissues]
        assert means == sorted(means), modality


def test_ad_has_wider_ventricles_and_thinner_cortex_than_nc():
    volumes = {group: [] for group in GROUPS}
    for seed in range(10):
        for group in GROUPS:
            labels = build_head((seed, GROUPS.index(group)), group, 4.0).labels()
            counts = np.bincount(labels.ravel(), minlength=len(LABELS))
            volumes[group].append([counts[LABELS["ventricle"]], counts[LABELS["grey"]]])
    (nc_ventricle, nc_grey), (ad_ventricle, ad_grey) = (np.transpose(volumes[group]) for group in GROUPS)
    assert ad_ventricle.mean() > 1.4 * nc_ventricle.mean()
    assert ad_grey.mean() < 0.9 * nc_grey.mean()


def test_the_same_person_with_ad_keeps_the_skull():
    nc, ad = (build_head(5, group, 4.0).labels() for group in GROUPS)
    bone = LABELS["bone"]
    np.testing.assert_array_equal(nc == bone, ad == bone)
    assert (ad == LABELS["ventricle"]).sum() > 1.4 * (nc == LABELS["ventricle"]).sum()


def test_the_anatomy_does_not_depend_on_the_spacing():
    fine, coarse = (build_head(7, "AD", spacing) for spacing in (3.0, 5.0))
    for tissue in ("ventricle", "white", "vitreous"):
        at_fine, at_coarse = (in_head_mm(head, head.labels() == LABELS[tissue]) for head in (fine, coarse))
        np.testing.assert_allclose(at_fine, at_coarse, atol=2.5)


def test_affines_differ_and_are_not_all_ras_but_the_eyes_are_always_in_front(dataset):
    stored = set()
    for path in sorted(dataset.glob("*/anat/*_T2w.nii.gz")):
        image = nib.load(path)
        stored.add("".join(nib.aff2axcodes(image.affine)))
        canonical = nib.as_closest_canonical(image)
        data = canonical.get_fdata()
        world = nib.affines.apply_affine(canonical.affine, np.argwhere(np.ones(data.shape, bool)))
        front = (world[:, 1] > 40) & (world[:, 2] < -15) & (world[:, 2] > -60)
        brightest = [np.percentile(data.ravel()[front & (side * world[:, 0] > 15)], 99.5) for side in (-1, 1)]
        assert min(brightest) > 0.6 * np.percentile(data, 99.9), path.name  # the vitreous, on both sides
    assert stored == {"PSR", "LPS", "RAS", "LAS"}
    affines = [nib.load(path).affine for path in sorted(dataset.glob("*/anat/*_T1w.nii.gz"))]
    assert len({affine.tobytes() for affine in affines}) == len(affines)
    oblique = [np.count_nonzero(np.abs(affine[:3, :3]) > 1e-6) > 3 for affine in affines]
    assert any(oblique)
    assert not all(oblique)


def test_the_modalities_of_a_subject_share_their_grid(dataset):
    for subject in sorted(dataset.glob("sub-*")):
        images = [nib.load(path) for path in subject.rglob("*.nii.gz")]
        assert len(images) == len(MODALITIES) + 1  # and the label map
        assert len({(image.shape, image.affine.tobytes()) for image in images}) == 1
        assert all(image.header["qform_code"] == image.header["sform_code"] == 1 for image in images)


def test_participants_and_datalist_agree(dataset):
    with (dataset / "participants.tsv").open() as file:
        people = {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    datalist = json.loads((dataset / "datalist.json").read_text())
    entries = [entry for split in ("training", "validation", "test") for entry in datalist[split]]
    assert sorted(entry["subject"] for entry in entries) == sorted(people)  # each in one split, once
    for entry in entries:
        assert entry["label"] == people[entry["subject"]]["group"]
        assert entry["image"].endswith("_T1w.nii.gz")
        assert (dataset / entry["image"]).is_file()
        assert 55 <= int(people[entry["subject"]]["age"]) <= 90
        assert people[entry["subject"]]["sex"] in "FM"


@pytest.mark.parametrize("region", ["head", "body"])
def test_each_image_has_the_label_map_of_its_tissues(region, tmp_path):
    path = write_dataset(tmp_path / region, 2, 8.0, modalities=["CT"], region=region)
    listed = read(path)
    names = (path.parent / "dseg.tsv").read_text().splitlines()[1:]
    assert dict(line.split("\t") for line in names) == {
        str(code): name for code, name in listed.segmentation_classes.items()
    }
    for entry in listed.entries:
        image, labels = nib.load(entry["image"]), nib.load(entry["segmentation"])
        np.testing.assert_array_equal(image.affine, labels.affine)
        values, codes = image.get_fdata(), np.asarray(labels.dataobj)
        assert set(np.unique(codes)) == set(listed.segmentation_classes)
        of = {name: np.median(values[codes == code]) for code, name in listed.segmentation_classes.items()}
        expected = {"head": {"white_matter": 29, "ventricles": 6}, "body": {"lungs": -840, "liver": 60}}[region]
        assert {name: of[name] for name in expected} == pytest.approx(expected, abs=20)


def test_24_subjects_are_split_16_4_4_with_equal_shares_of_both_groups(monkeypatch, tmp_path):
    image = np.zeros((2, 2, 2), np.int16)
    monkeypatch.setattr("medsynth.data.phantom.phantom.draw_modality", lambda *_: image)
    path = write_dataset(tmp_path / "heads", 24, 8.0)
    datalist = json.loads(path.read_text())
    counts = {
        split: Counter(entry["label"] for entry in datalist[split]) for split in ("training", "validation", "test")
    }
    assert counts == {"training": {"NC": 8, "AD": 8}, "validation": {"NC": 2, "AD": 2}, "test": {"NC": 2, "AD": 2}}


def test_a_complete_dataset_is_reused(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert write_dataset(dataset, 8, 6.0, modalities=MODALITIES) == dataset / "datalist.json"
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_another_recipe_or_other_files_are_refused_and_left_alone(dataset, tmp_path):
    with pytest.raises(MedsynthError, match="another phantom"):
        write_dataset(dataset, 8, 6.0, seed=9, modalities=MODALITIES)
    older = tmp_path / "older" / "dataset_description.json"
    older.parent.mkdir()
    older.write_text((dataset / older.name).read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(MedsynthError, match="older holds the phantom of another version of medsynth: remove"):
        write_dataset(older.parent, 8, 6.0, modalities=MODALITIES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MedsynthError, match="something other than a phantom"):
        write_dataset(tmp_path, 2, 6.0)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "older"}


def test_a_stopped_run_leaves_nothing(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medsynth.data.phantom.phantom.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "heads", 2, 8.0)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_write_the_same_dataset_at_once(tmp_path):
    folder = tmp_path / "heads"
    with get_context("spawn").Pool(2) as pool:
        results = pool.starmap(write_dataset, [(folder, 2, 8.0)] * 2)
    assert results == [folder / "datalist.json"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


@pytest.mark.parametrize(
    "mistake", [{"modalities": ["PD"]}, {"modalities": []}, {"subjects": 1}, {"seed": -1}, {"spacing_mm": 0.0}]
)
def test_impossible_arguments_are_refused_before_anything_is_written(mistake, tmp_path):
    with pytest.raises(MedsynthError, match="phantom"):
        write_dataset(tmp_path / "heads", **mistake)
    assert list(tmp_path.iterdir()) == []


def test_two_modalities_are_listed_as_pairs_of_the_same_split(tmp_path):
    single = write_dataset(tmp_path / "phantom", subjects=6, spacing_mm=8.0, modalities=("T1w", "CT"))
    images, pairs = (json.loads(single.with_name(name).read_text()) for name in ("datalist.json", "pairs.json"))
    for split in ("training", "validation", "test"):
        assert [entry["source"] for entry in pairs[split]] == [entry["image"] for entry in images[split]]
        assert all(entry["target"].endswith(f"{entry['subject']}_CT.nii.gz") for entry in pairs[split])
        assert all((tmp_path / "phantom" / entry["target"]).is_file() for entry in pairs[split])


def test_a_trunk_lies_on_its_table_and_touches_nothing_else():
    body = build_body(0, "slim", 4.0)
    hounsfield, labels = draw_modality(body, "CT", 0).astype(float), body.labels()
    of = {tissue: hounsfield[labels == number] for number, tissue in enumerate(trunk.TISSUES)}
    assert not [tissue for tissue, values in of.items() if len(values) < 20]
    expected = {"lung": -840, "liver": 60, "fat": -100, "kidney": 36}
    assert {tissue: round(np.median(of[tissue]), -1) for tissue in expected} == pytest.approx(expected, abs=15)
    assert np.median(of["table"]) > -200
    patient = find_patient(np.flip(hounsfield.swapaxes(0, 1), 0), (4.0,) * 3, "ct", "body").whole_mask()
    inside = np.flip(patient, 0).swapaxes(0, 1)
    outside = np.isin(labels, [trunk.TISSUES.index(tissue) for tissue in ("air", "foam", "table")])
    assert inside[labels == trunk.TISSUES.index("table")].mean() < 0.01
    assert (inside == ~outside).mean() > 0.98


def test_the_stout_have_more_fat_and_the_same_organs():
    slim, stout = (build_body(5, group, 6.0).labels() for group in trunk.GROUPS)
    fat, liver = trunk.TISSUES.index("fat"), trunk.TISSUES.index("liver")
    assert (stout == fat).sum() > 1.15 * (slim == fat).sum()
    assert (stout == liver).sum() < (slim == liver).sum()


def test_bodies_are_co_registered_and_same_in_every_run(tmp_path):
    made = [write_dataset(tmp_path / name, 2, 8.0, modalities=("T1w", "CT"), region="body").parent for name in "ab"]
    assert all_bytes(made[0]) == all_bytes(made[1])
    mr, ct = (nib.load(made[0] / f"sub-001/{kind}") for kind in ("anat/sub-001_T1w.nii.gz", "ct/sub-001_CT.nii.gz"))
    np.testing.assert_array_equal(mr.affine, ct.affine)
    assert np.corrcoef(mr.get_fdata().ravel() > 100, ct.get_fdata().ravel() > -300)[0, 1] > 0.6
    with pytest.raises(MedsynthError, match="name one or more of T1w, T2w, CT once"):
        write_dataset(tmp_path / "c", 2, 8.0, modalities=("FLAIR",), region="body")
