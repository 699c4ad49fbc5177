"""Public data sets as they unpack: whose image each file is, what is a label map, and what makes pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.pairs import find_pairs
from medsynth.errors import MedsynthError

VOLUME = np.arange(27, dtype=np.int16).reshape(3, 3, 3)


@pytest.fixture
def unpack(tmp_path) -> Callable[..., Path]:
    """Write small images of these names below a folder, which is returned."""

    def write(*names: str) -> Path:
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".mha":
                sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path))
            elif path.suffix == ".png":
                Image.fromarray(VOLUME[0].astype(np.uint8)).save(path)
            elif path.suffix == ".hdr":
                nib.save(nib.AnalyzeImage(VOLUME, np.eye(4)), path.with_suffix(".img"))
            else:
                nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), path)
        return tmp_path / "set"

    return write


def listed(folder: Path, pattern: str = "*") -> dict[str, tuple[str, ...]]:
    """Path of each image below the folder -> its subject, and those of the mask and the segmentation beside it."""
    found = survey(folder, pattern=pattern)

    def below(path: str) -> str:
        return Path(path).relative_to(folder.absolute()).as_posix()

    return {
        below(entry["image"]): (
            entry["subject"],
            *(below(entry[key]) for key in ("mask", "segmentation") if key in entry),
        )
        for entry in found.entries
    }


def paired(folder: Path) -> list[tuple[str, ...]]:
    """Of each pair that the folder is made for: subject, source, target and mask."""
    found = survey(folder)
    made = find_pairs(folder, *found.pair)
    return [
        tuple(
            Path(entry[key]).name if key != "subject" else entry[key]
            for key in ("subject", "source", "target", "mask")
            if key in entry
        )
        for entry in made.entries
    ]


@pytest.mark.parametrize(
    ("case", "ending"),
    [("Task1/brain/1BA00{}", "nii.gz"), ("Task1/pelvis/1PA00{}", "nii.gz"), ("Task1/HN/1HNA00{}", "mha")],
)
def test_synthrad_is_mr_and_ct_with_their_mask(unpack, case, ending):
    folder = unpack(*(f"{case.format(i)}/{name}.{ending}" for i in (1, 2) for name in ("mr", "ct", "mask")))
    assert paired(folder) == [(case.format(i), f"mr.{ending}", f"ct.{ending}", f"mask.{ending}") for i in (1, 2)]


def test_previews_of_synthrad_are_not_in_the_pairs(unpack):
    names = [f"1BA00{i}/{name}.nii.gz" for i in (1, 2) for name in ("mr", "ct", "mask")]
    found = paired(unpack(*names, *(f"overview/1BA00{i}_train.png" for i in (1, 2))))
    assert [subject for subject, *_ in found] == ["1BA001", "1BA002"]


def test_regions_of_synthrad_2025_are_of_different_patients(unpack):
    cases = [f"{region}/1{region}A00{i}" for region in ("AB", "HN", "TH") for i in (1, 2)]
    found = paired(unpack(*(f"{case}/{name}.mha" for case in cases for name in ("mr", "ct", "mask"))))
    assert [subject for subject, *_ in found] == cases


def test_synthrads_second_task_is_cone_beam_ct_and_ct(unpack):
    folder = unpack(*(f"Task2/brain/2BA00{i}/{name}.nii.gz" for i in (1, 2) for name in ("cbct", "ct", "mask")))
    assert paired(folder)[0] == ("Task2/brain/2BA001", "cbct.nii.gz", "ct.nii.gz", "mask.nii.gz")


def test_both_tasks_of_synthrad_together_are_refused_with_their_numbers(unpack):
    folder = unpack(
        *(f"Task1/brain/1BA001/{name}.nii.gz" for name in ("mr", "ct")),
        *(f"Task2/brain/2BA001/{name}.nii.gz" for name in ("cbct", "ct")),
    )
    with pytest.raises(MedsynthError, match=r"MRI and CT|CT and MRI") as error:
        survey(folder)
    assert "ct (2)" in str(error.value)
    assert "--source 'mr.nii.gz' --target 'ct.nii.gz'" in str(error.value)


@pytest.mark.parametrize("root", ["", "Task04_Hippocampus/"])
def test_the_decathlon_has_a_segmentation_for_each_image(unpack, root):
    names = [f"hippocampus_{i:03d}.nii.gz" for i in (1, 3, 4)]
    folder = unpack(
        *(f"{root}{kind}Tr/{name}" for kind in ("images", "labels") for name in names),
        f"{root}imagesTs/hippocampus_002.nii.gz",
    )
    assert listed(folder) == {f"{root}imagesTr/{name}": (name[:15], f"{root}labelsTr/{name}") for name in names} | {
        f"{root}imagesTs/hippocampus_002.nii.gz": ("hippocampus_002",)
    }


def test_nnunets_channels_are_of_one_subject_and_make_pairs_by_their_names(unpack):
    root = "Dataset001_Tumour/"
    folder = unpack(
        *(f"{root}imagesTr/case_{i:04d}_{channel:04d}.nii.gz" for i in (0, 1) for channel in (0, 1)),
        *(f"{root}labelsTr/case_{i:04d}.nii.gz" for i in (0, 1)),
    )
    (folder / root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}))
    found = survey(folder)
    assert {entry["subject"] for entry in found.entries} == {"case_0000", "case_0001"}
    assert found.contrasts == ["T1", "FLAIR"]
    assert all(Path(entry["segmentation"]).parent.name == "labelsTr" for entry in found.entries)
    assert paired(folder) == [
        (f"case_{i:04d}", f"case_{i:04d}_0000.nii.gz", f"case_{i:04d}_0001.nii.gz") for i in (0, 1)
    ]


def test_one_channel_of_nnunet_is_one_image_a_subject(unpack):
    folder = unpack("imagesTr/case_0000.nii.gz", "labelsTr/case.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    assert listed(folder) == {"imagesTr/case_0000.nii.gz": ("case", "labelsTr/case.nii.gz")}


def test_four_figures_that_number_patients_are_no_channels(unpack):
    folder = unpack(*(f"imagesTr/amos_{i:04d}.nii.gz" for i in (0, 1, 5)))
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    assert {subject for subject, *_ in listed(folder).values()} == {"amos_0000", "amos_0001", "amos_0005"}


@pytest.mark.parametrize(
    ("case", "subject", "separator", "contrasts"),
    [
        ("BraTS-GLI-0000{}-000", "BraTS-GLI-0000{}", "-", ("t1n", "t1c", "t2w", "t2f")),
        ("BraTS-MEN-0000{}-001", "BraTS-MEN-0000{}", "-", ("t1n", "t1c", "t2w", "t2f")),
        ("BraTS2021_0000{}", "BraTS2021_0000{}", "_", ("t1", "t1ce", "t2", "flair")),
        ("BraTS20_Training_00{}", "BraTS20_Training_00{}", "_", ("t1", "t1ce", "t2", "flair")),
        ("Brats18_CBICA_AA{}_1", "Brats18_CBICA_AA{}", "_", ("t1", "t1ce", "t2", "flair")),
    ],
)
def test_brats_contrasts_are_of_one_subject_and_its_label_map_is_beside_each(
    unpack, case, subject, separator, contrasts
):
    names = [(case.format(i), subject.format(i), contrast) for i in (1, 2, 3) for contrast in contrasts]
    label = "{0}/{0}" + separator + "seg.nii.gz"
    image = "{0}/{0}" + separator + "{1}.nii.gz"
    folder = unpack(
        *(image.format(name, contrast) for name, _, contrast in names),
        *(label.format(case.format(i)) for i in (1, 2, 3)),
    )
    assert listed(folder) == {image.format(name, contrast): (who, label.format(name)) for name, who, contrast in names}
    chosen = (contrasts[0], contrasts[-1])
    assert survey(folder).pair == tuple(f"*{separator}{contrast}.nii.gz" for contrast in chosen)


def test_time_points_of_brats_are_of_one_subject(unpack):
    cases = [f"BraTS-GLI-0000{i}-00{time}" for i in (1, 2) for time in (0, 1)]
    folder = unpack(*(f"{case}/{case}-t1n.nii.gz" for case in cases))
    assert [subject for subject, *_ in listed(folder).values()] == ["BraTS-GLI-00001"] * 2 + ["BraTS-GLI-00002"] * 2


def test_ixi_in_a_folder_for_each_contrast_makes_pairs(unpack):
    ids = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212")
    folder = unpack(*(f"IXI-{contrast}/{who}-{contrast}.nii.gz" for contrast in ("T1", "T2", "PD") for who in ids))
    assert {subject for subject, *_ in listed(folder).values()} == set(ids)
    assert paired(folder)[0] == (ids[0], f"{ids[0]}-T1.nii.gz", f"{ids[0]}-T2.nii.gz")


def test_oasis_1_leaves_out_its_segmentation(unpack):
    disc = "disc1/OAS1_0001_MR{}/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR{}_mpr_n4_anon_111_t88_masked_gfc.hdr"
    labels = "disc1/OAS1_0001_MR1/FSL_SEG/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg.hdr"
    found = listed(unpack(disc.format(1, 1), disc.format(2, 2), labels))
    assert [subject for subject, *_ in found.values()] == ["OAS1_0001"] * 2


def test_sessions_of_oasis_2_and_3_are_of_one_subject(unpack):
    folder = unpack(
        *(f"OAS2_000{i}_MR{session}/RAW/mpr-1.nifti.hdr" for i in (1, 2) for session in (1, 2)),
        "OAS30001_MR_d0129/anat2/NIFTI/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz",
        "OAS30001_MR_d0757/anat3/NIFTI/sub-OAS30001_sess-d0757_T1w.nii.gz",
    )
    assert sorted(subject for subject, *_ in listed(folder).values()) == [
        *["OAS2_0001"] * 2,
        *["OAS2_0002"] * 2,
        *["sub-OAS30001"] * 2,
    ]


def test_visits_of_adni_are_of_one_subject(unpack):
    name = "ADNI_{0}_MR_MPR__GradWarp__N3__Scaled_Br_2007_S{1}_I{1}.nii"
    folder = unpack(
        *(
            f"ADNI/{who}/MPR__GradWarp/200{year}-04-18_08_20_30.0/S{year}/{name.format(who, year)}"
            for who in ("002_S_0295", "002_S_0413")
            for year in (6, 7)
        )
    )
    assert [subject for subject, *_ in listed(folder).values()] == ["002_S_0295"] * 2 + ["002_S_0413"] * 2


def test_cyclegans_folders_are_two_domains(unpack):
    found = survey(
        unpack(*(f"{split}{domain}/{i}.png" for split in ("train", "test") for domain in "AB" for i in (1, 2)))
    )
    assert found.layout == "domains"
    assert [sorted(entry.keys() & {"source", "target"}) for entry in found.splits["test"]] == [["source"]] * 2 + [
        ["target"]
    ] * 2


def test_derivatives_of_bids_have_masks_and_segmentations(unpack):
    anat = "sub-0{0}/anat/sub-0{0}_{1}.nii.gz"
    kinds = (
        "desc-preproc_T1w",
        "dseg",
        "desc-aseg_dseg",
        "desc-brain_mask",
        "label-GM_probseg",
        "space-MNI_desc-brain_mask",
    )
    folder = unpack(*(anat.format(i, kind) for i in (1, 2) for kind in kinds))
    (folder / "dataset_description.json").write_text(json.dumps({"DatasetType": "derivative"}))
    assert listed(folder) == {
        anat.format(i, "desc-preproc_T1w"): (f"sub-0{i}", anat.format(i, "desc-brain_mask"), anat.format(i, "dseg"))
        for i in (1, 2)
    }
    assert {path.name.split("_", 1)[1] for path in survey(folder).left_out} == {
        "desc-aseg_dseg.nii.gz",
        "label-GM_probseg.nii.gz",
        "space-MNI_desc-brain_mask.nii.gz",
    }


def test_raw_images_of_bids_have_the_masks_of_its_derivatives(unpack):
    mask = "derivatives/fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    folder = unpack("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", mask)
    (folder / "dataset_description.json").write_text("{}")
    assert listed(folder) == {
        "sub-01/anat/sub-01_T1w.nii.gz": ("sub-01", mask),
        "sub-02/anat/sub-02_T1w.nii.gz": ("sub-02",),
    }


def test_masks_beside_images_are_no_images_and_one_is_taken(unpack):
    folder = unpack(
        *(f"P{i:03d}_{kind}.nii.gz" for i in range(12) for kind in ("T1w", "T1w_mask", "brainmask", "lesion_mask"))
    )
    assert listed(folder) == {f"P{i:03d}_T1w.nii.gz": (f"P{i:03d}", f"P{i:03d}_T1w_mask.nii.gz") for i in range(12)}


def test_a_masked_image_is_an_image(unpack):
    assert len(listed(unpack("p1_T1w_masked.nii.gz", "p2_T1w_masked.nii.gz"))) == 2


def test_organs_of_totalsegmentator_are_no_images(unpack):
    organs = ("liver", "kidney_left", "spleen")
    folder = unpack(
        *(f"s000{i}/{name}.nii.gz" for i in (1, 2) for name in ("ct", *(f"segmentations/{organ}" for organ in organs)))
    )
    assert listed(folder) == {f"s000{i}/ct.nii.gz": (f"s000{i}",) for i in (1, 2)}


@pytest.mark.parametrize(
    "names",
    [
        ("{}_baseline", "{}_followup"),
        ("{}_ses1", "{}_ses2"),
        ("{}_ses-01_T1w", "{}_ses-02_T1w"),
        ("{}_visit_1", "{}_visit_2"),
        ("{}_tp1_T1", "{}_tp2_FLAIR"),
        ("{}_20190101", "{}_20200315"),
        ("{}_2019-01-01_T1w", "{}_2020-03-15_T1w"),
        ("{}_15.03.2020", "{}_16.03.2021"),
        ("{}_bl", "{}_m12"),
        ("{}_run-1_T1w", "{}_run-2_T1w"),
        ("{}_echo1", "{}_echo2"),
        ("{}_part-mag", "{}_part-phase"),
        ("{}_pre", "{}_post"),
        ("{}_T1w_brain", "{}_T1w_n4"),
        ("{}-t1c", "{}-t2w"),
        ("baseline_{}", "followup_{}"),
        ("T1_{}", "T2_{}"),
        ("{}/baseline/T1", "{}/followup/T1"),
        ("{}/2019-01-01/T1", "{}/2020-03-15/T1"),
        ("baseline/{}", "followup/{}"),
        ("{}_baseline/T1", "{}_followup/T1"),
        ("{}_0000", "{}_0001"),
        ("{}_left", "{}_right"),
        ("{}_unheard", "{}_of"),
        ("{}_scan1", "{}_scan2"),
        ("{}/m06/T1", "{}/m12/T1"),
        ("{}_3_20190101101500_3", "{}_5_20190101102500_5"),
        ("1_{}", "2_{}"),
    ],
)
@pytest.mark.parametrize("count", [3, 14])
def test_what_varies_between_the_files_of_a_patient_makes_no_new_subject(unpack, names, count):
    patients = [f"P{i:03d}" for i in range(count)]
    folder = unpack(*(f"{name.format(who)}.nii.gz" for who, name in itertools.product(patients, names)))
    found = listed(folder)
    assert len(found) == 2 * count
    assert {subject for subject, *_ in found.values()} == set(patients)


@pytest.mark.parametrize(
    "names",
    [
        ("AD_001", "AD_002", "CN_001", "CN_002"),
        ("M12", "M13", "V01"),
        ("20190101", "20190102"),
        ("001", "002"),
        ("AD_001", "CN_001", "AD_002", "CN_002", "MCI_001", "MCI_002"),
        ("proj_V01_T1w", "proj_V02_T1w"),
        ("a/1", "a/2", "b/1", "b/2"),
    ],
)
def test_patients_that_are_only_numbered_stay_apart(unpack, names):
    found = listed(unpack(*(f"{name}.nii.gz" for name in names)))
    expected = {"a", "b"} if "/" in names[0] else {name.removesuffix("_T1w") for name in names}
    assert {subject for subject, *_ in found.values()} == expected


def test_numbered_scans_of_a_patient_are_of_the_folder_however_many_they_are(unpack):
    folder = unpack(*(f"P{i:03d}/scan{n:02d}.nii.gz" for i in range(4) for n in range(12)))
    assert {subject for subject, *_ in listed(folder).values()} == {f"P{i:03d}" for i in range(4)}


def test_an_uncertain_guess_is_said_with_the_cure(unpack):
    folder = unpack(*(f"P{i:03d}_{word}.nii.gz" for i in range(3) for word in ("unheard", "of")))
    (note,) = survey(folder).notes
    assert "subjects are guessed: P000_of.nii.gz and P000_unheard.nii.gz count as one, P000; " in note
    assert "--subject_pattern" in note
    assert "table" in note
    alone = unpack("Q1_x.nii.gz", "Q1_y.nii.gz").rename(folder.with_name("other"))
    for path in alone.glob("P*"):
        path.unlink()
    (note,) = survey(alone).notes
    assert "Q1_x.nii.gz and Q1_y.nii.gz count as two, Q1_x and Q1_y" in note
    assert survey(alone, subject_pattern="(?P<subject>[^_]+)").notes == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a_T1w", "b_CT", "b_T2w"), "T1w (1), CT (1), T2w (1)"),
        (("CT/a", "MR_T1/b", "MR_T2/c"), "CT (1)"),
    ],
)
def test_mri_and_ct_in_one_set_are_refused_with_their_numbers(unpack, names, said):
    with pytest.raises(MedsynthError, match="which one set must not mix: choose with --pattern") as error:
        survey(unpack(*(f"{name}.nii.gz" for name in names)))
    assert said in str(error.value)


def test_a_pattern_that_takes_mri_and_ct_is_refused(unpack):
    folder = unpack("p1/mr.nii.gz", "p1/ct.nii.gz")
    with pytest.raises(MedsynthError, match="must not mix"):
        survey(folder, pattern="*.nii.gz")
    assert list(listed(folder, "ct*")) == ["p1/ct.nii.gz"]


def test_contrasts_in_folders_are_chosen_by_their_paths(unpack):
    folder = unpack(*(f"{kind}/p{i}.nii.gz" for kind in ("MR", "CT") for i in (1, 2)))
    assert survey(folder).pair == ("*/MR/*", "*/CT/*")
    assert paired(folder) == [(f"p{i}", f"p{i}.nii.gz", f"p{i}.nii.gz") for i in (1, 2)]


def test_contrasts_in_one_list_are_counted_with_the_options_that_choose(unpack):
    kinds = ("inv-1_part-mag_MP2RAGE", "inv-1_part-phase_MP2RAGE", "UNIT1")
    found = survey(unpack(*(f"sub-0{i}/anat/sub-0{i}_{kind}.nii.gz" for i in (1, 2) for kind in kinds)))
    (note,) = found.notes
    assert "inv-1_part-mag_MP2RAGE (2)" in note
    assert "--pattern '*_UNIT1.nii.gz'" in note


def test_a_pattern_that_fits_but_for_case_is_told(unpack):
    folder = unpack("p1_T1w.nii.gz", "p2_T1W.nii.gz")
    with pytest.raises(
        MedsynthError, match=r"named \*_t1w\*: 2 fit but for upper and lower case, such as p1_T1w.nii.gz"
    ):
        survey(folder, pattern="*_t1w*")
    assert "1 fit but for upper and lower case, such as p2_T1W.nii.gz" in survey(folder, pattern="*_T1w*").notes[0]


def test_a_table_names_masks_and_segmentations(unpack, tmp_path):
    folder = unpack("a.nii.gz", "m.nii.gz", "s.nii.gz")
    (folder / "list.csv").write_text("image,mask,segmentation\na.nii.gz,m.nii.gz,s.nii.gz\n")
    (entry,) = survey(folder / "list.csv").entries
    assert [Path(entry[key]).name for key in ("image", "mask", "segmentation")] == ["a.nii.gz", "m.nii.gz", "s.nii.gz"]
