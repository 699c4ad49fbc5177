"""Several contrasts as the source, end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import verify_net_in_out
from tables import rows
from test_translation import SMALL

from medsynth.data.phantom import phantom
from medsynth.errors import as_line
from medsynth.packaging.packing import pack_bundle
from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]


def listed(path: Path, sources: tuple[str, ...], missing: dict[str, str]) -> Path:
    """A datalist of FLAIR from these contrasts; `missing` says which one a subject lacks."""
    content = json.loads(path.with_name("pairs.json").read_text())
    for entry in (entry for split in ("training", "validation", "test") for entry in content[split]):
        subject = entry["subject"]
        entry["target"] = phantom.image_path(subject, "FLAIR")
        entry["source"] = {
            name: None if missing.get(subject) == name else phantom.image_path(subject, name) for name in sources
        }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """A phantom of T1w, T2w and FLAIR; two training subjects lack one contrast."""
    folder = tmp_path_factory.mktemp("contrasts") / "phantom"
    phantom.write_dataset(folder, subjects=8, spacing_mm=8.0, modalities=("T1w", "T2w", "FLAIR"))
    return listed(folder / "contrasts.json", ("T1w", "T2w"), {"sub-001": "T1w", "sub-002": "T2w"})


@pytest.fixture(scope="module")
def train(trains, heads) -> Callable[..., Path]:
    return trains("translation/train.json", heads, **SMALL)


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of two short epochs."""
    return train(tmp_path_factory.mktemp("translation") / "run", max_epochs=2)


@pytest.fixture
def translate(run_bundle, trained, tmp_path) -> Callable[..., list[dict]]:
    """Translate, and return the sidecars."""

    def run(**overrides: object) -> list[dict]:
        options = {"checkpoint": str(trained / "model.pt"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
        run_bundle("inference", "translation/inference.json", **options | overrides)
        return [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "images").glob("*.json"))]

    return run


def test_training_learns_one_direction_from_all_contrasts(trained):
    model = load_model(trained / "model.pt")
    assert model.network.contrasts == ("T1w", "T2w")
    assert not any(name.startswith("target_to_source") for name in model.network.state_dict())
    first, *_, last = rows(trained / "metrics.csv")
    assert set(first) == {"iteration", "epoch", "error", "mae_target", "psnr_target", "ssim_target"}
    assert last["error"] < first["error"]
    assert "samples shows in a row, the contrasts of a held-out slice" in (trained / "train.log").read_text()


def test_a_folder_is_translated_from_what_each_subject_has(translate, heads, tmp_path):
    for subject, contrasts in {"sub-001": ("T2w", "T1w", "FLAIR"), "sub-002": ("T2w",)}.items():
        for contrast in contrasts:
            path = phantom.image_path(subject, contrast)
            (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(heads.parent / path, tmp_path / "in" / path)
    both, one = translate(input=str(tmp_path / "in"))
    assert (both["Contrasts"], one["Contrasts"]) == (["T1w", "T2w"], ["T2w"])
    assert (len(both["Sources"]), len(one["Sources"])) == (2, 1)
    made = nib.load(tmp_path / "out" / "images" / "translation_source_to_target_0000.nii.gz")
    given = nib.load(heads.parent / phantom.image_path("sub-001", "T1w"))
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-4)
    assert made.shape == given.shape


def test_what_is_given_changes_the_translation(translate, heads, tmp_path):
    made = {}
    for contrast in ("T1w", "T2w"):
        (sidecar,) = translate(input=str(heads.parent / phantom.image_path("sub-003", contrast)), overwrite=True)
        assert sidecar["Contrasts"] == [contrast]
        made[contrast] = nib.load(next((tmp_path / "out" / "images").glob("*.nii.gz"))).get_fdata()
    assert not np.allclose(made["T1w"], made["T2w"])


def test_evaluation_says_how_good_each_contrast_alone_is(run_bundle, trained, heads, cache_dir, tmp_path):
    options = {
        "checkpoint": str(trained / "model.pt"),
        "real": str(heads),
        "output_dir": str(tmp_path),
        "device": "cpu",
    }
    run_bundle("evaluation", "translation/evaluate.json", cache_dir=str(cache_dir), split="both", **options)
    mae = json.loads((tmp_path / "metrics.json").read_text())["mae"]
    assert set(mae["by_contrasts"]) == {"only T1w", "only T2w"}
    assert len({mae["value"], *mae["by_contrasts"].values()}) == 3
    sidecar = json.loads(next((tmp_path / "only_T2w" / "images").glob("*.json")).read_text())
    assert sidecar["Contrasts"] == ["T2w"]
    assert "Only T2w" in (tmp_path / "report.html").read_text()


def test_a_pack_has_a_channel_for_each_slice_of_each_contrast(trained, tmp_path):
    folder = pack_bundle(ROOT / "bundles" / "translation", trained / "model.pt", tmp_path / "pack")
    formats = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]
    assert formats["inputs"]["image"]["num_channels"] == 6
    assert formats["inputs"]["image"]["channel_def"]["4"] == "T2w, image"
    assert (list(formats["inputs"]), list(formats["outputs"])) == (["image"], ["pred"])
    configs = folder / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "train.json"),
        device="cpu",
    )


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("sub-003_FLAIR.nii.gz", {}, "shows FLAIR, and this model knows T1w, T2w"),
        ("sub-003_T1w.nii.gz", {"direction": "target_to_source"}, "makes the target from them alone"),
    ],
)
def test_what_cannot_be_translated_is_told_in_one_line(translate, heads, tmp_path, name, overrides, told):
    with pytest.raises(RuntimeError) as stopped:
        translate(input=str(heads.parent / "sub-003" / "anat" / name), **overrides)
    assert told in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_contrasts_on_different_grids_are_told_with_the_subject(translate, heads, tmp_path):
    folder = tmp_path / "sub-9"
    folder.mkdir()
    shutil.copy(heads.parent / phantom.image_path("sub-003", "T1w"), folder / "sub-9_T1w.nii.gz")
    shutil.copy(heads.parent / phantom.image_path("sub-005", "T2w"), folder / "sub-9_T2w.nii.gz")
    with pytest.raises(RuntimeError) as stopped:
        translate(input=str(folder))
    line = as_line(stopped.value)
    assert "sub-9: " in line
    assert "sub-9_T1w.nii.gz and " in line
    assert "sub-9_T2w.nii.gz are on different grids" in line


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"paired": False}, "several sources learn from pairs alone"),
        ({"all_terms_on_pairs": True}, "all_terms_on_pairs needs both directions"),
    ],
)
def test_a_mistake_is_told_in_one_line(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_ct_beside_mri_as_sources_is_refused(refusal, train, heads):
    content = json.loads(heads.read_text())
    for split in ("training", "validation", "test"):
        for entry in content[split]:
            entry["source"] = {"T1w": entry["source"]["T1w"], "CT": f"{entry['subject']}_CT.nii.gz"}
            shutil.copy(
                heads.parent / phantom.image_path(entry["subject"], "T2w"), heads.parent / entry["source"]["CT"]
            )
    path = heads.with_name("mixed.json")
    path.write_text(json.dumps(content))
    assert "is CT and " in refusal(train, datalist=str(path))
