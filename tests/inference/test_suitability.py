from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import torch

from medsynth.data.phantom.phantom import write_dataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder, read_sidecar
from medsynth.inference.reconstruct import reconstruct
from medsynth.inference.suitability import modality_by_values, suitable, suitable_inputs
from medsynth.run.recipe import load_model

MRI, CT = Preprocessing("mri", None, None, 32), Preprocessing("ct", None, None, 32)
PIXELS = ((6.0, 6.0), (6.0, 6.0))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> dict[str, dict[str, str]]:
    """A T1 and a CT of each region, as inputs, by "head T1w" and so on."""
    found = {}
    for region in ("head", "body"):
        folder = tmp_path_factory.mktemp(region) / "phantom"
        write_dataset(folder, subjects=2, spacing_mm=6.0, modalities=("T1w", "CT"), region=region)
        for kind in ("T1w", "CT"):
            found[f"{region} {kind}"] = {"image": str(next(folder.rglob(f"*_{kind}.nii.gz"))), "label": None}
    return found


def values_of(entry: dict[str, str]) -> np.ndarray:
    return nib.load(entry["image"]).get_fdata().astype(np.float32)


@pytest.mark.parametrize("region", ["head", "body"])
@pytest.mark.parametrize("change", [lambda ct: ct, lambda ct: ct + 1024, lambda ct: np.where(ct < -900, -2000, ct)])
def test_ct_is_told_by_its_values_with_offset_and_padding_too(scans, region, change):
    assert modality_by_values(change(values_of(scans[f"{region} CT"])))[0] == "ct"


def test_ct_without_air_is_told_by_fat_and_that_with_a_background_of_0_by_brain_and_bone(scans):
    inside = values_of(scans["body CT"])
    middle = [size // 2 for size in inside.shape]
    part = inside[tuple(slice(at - 6, at + 6) for at in middle)].clip(-150)
    part[:6] = -90
    assert modality_by_values(part)[0] == "ct"
    head = values_of(scans["head CT"])
    assert modality_by_values(np.where(head < -200, 0, head))[0] == "ct"


@pytest.mark.parametrize("region", ["head", "body"])
@pytest.mark.parametrize(
    "change", [lambda t1: t1, lambda t1: t1 / t1.max(), lambda t1: t1 / t1.std() - 1, lambda t1: 255 * t1 / t1.max()]
)
def test_mri_is_told_in_any_scale(scans, region, change):
    assert modality_by_values(change(values_of(scans[f"{region} T1w"])))[0] == "mri"


def test_the_other_modality_is_refused_in_one_line_that_names_it_and_the_cure(scans):
    with pytest.raises(
        MedsynthError,
        match=r"T1w.nii.gz has values from .* as MRI and unlike Hounsfield units, and this "
        r"model's input is CT: give CT, or a model of MRI, or go on with --force true",
    ):
        suitable([scans["head T1w"]], CT, PIXELS, False)
    with pytest.raises(
        MedsynthError, match="CT.nii.gz has values down to -1.*input is MRI: give MRI, or a model of CT"
    ):
        suitable([scans["head CT"]], MRI, PIXELS, False)
    with pytest.raises(MedsynthError, match="input is CT: give --direction source_to_target"):
        suitable([scans["head T1w"]], CT, PIXELS, False, {"give --direction source_to_target": MRI})


def test_some_of_another_modality_are_left_out_by_name(scans, caplog):
    assert suitable([scans["head CT"], scans["head T1w"]], CT, PIXELS, False) == [scans["head CT"]]
    assert "left out" in caplog.text
    assert "T1w.nii.gz" in caplog.text


def test_the_dicom_tag_decides(tmp_path, slices, store, head):
    series = store(tmp_path, slices(head() - 1024, Modality="MR"))
    with pytest.raises(MedsynthError, match="files of .* is MR by its DICOM tag, and this model's input is CT"):
        suitable([{"image": str(series)}], CT, PIXELS, False)


@pytest.mark.parametrize(
    ("name", "learned", "pixels", "warning"),
    [
        ("head CT", CT, PIXELS, None),
        ("head T1w", MRI, PIXELS, None),
        ("body CT", CT, PIXELS, "seems to show another part of the body than a head, and this model learned heads"),
        ("head CT", CT, ((2.0, 2.0), (2.0, 2.0)), "has pixels of 6 x 6 mm, and this model learned from 2 x 2 mm"),
        ("head CT", CT, ((3.0, 3.0), (6.0, 6.0)), None),
        ("head CT", Preprocessing("ct", (200.0, 900.0), None, 32), PIXELS, "of the patient is outside of 200 to 900"),
    ],
)
def test_what_may_be_wrong_is_warned_of_by_name(scans, caplog, name, learned, pixels, warning):
    with caplog.at_level(logging.WARNING):
        assert suitable([scans[name]], learned, pixels, False) == [scans[name]]
    assert (warning in caplog.text) if warning else not caplog.text


def test_force_goes_on_and_the_sidecar_says_so(scans, untrained, tmp_path):
    model = load_model(untrained("vaegan"))
    inputs = suitable_inputs([scans["head CT"]], model, True)
    output = ImageFolder(tmp_path / "out", "vaegan", model.digest)
    reconstruct(inputs, model, lambda slices, network, *facts: torch.zeros_like(slices), output, 8)
    (image,) = (tmp_path / "out/images").glob("*.nii.gz")
    assert "as the air of CT, and this model's input is MRI" in read_sidecar(image)["Forced"]
    with pytest.raises(MedsynthError, match="force is 'yes': give true"):
        suitable(inputs, MRI, PIXELS, "yes")


def test_pictures_and_what_cannot_be_read_are_left_to_who_uses_them(tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    assert suitable([{"image": str(broken)}], CT, PIXELS, False)
    assert suitable([{"image": str(broken)}], Preprocessing("image", None, None, 32), PIXELS, False)
