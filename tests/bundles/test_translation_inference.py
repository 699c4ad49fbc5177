from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_networks import VAEGAN

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import as_line
from medsynth.models.translation.network import Translator, UNetVae
from medsynth.models.vaegan.network import VaeGan
from medsynth.nn.patch_discriminator import Discriminators
from medsynth.run.recipe import save_model

SIZE = 32
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 0, 2.5, -40], [0, 4.0, 0, -20], [0, 0, 0, 1]])  # left, superior, anterior
MRI, CT = (0.0, 400.0), (-1000.0, 1000.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """`pairs.json` of four heads: a brain of 300 and a skull of 100 in MRI, of 40 and 900 HU in CT."""
    folder = tmp_path_factory.mktemp("pairs")
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (22, 18, 26)), indexing="ij"))
    content: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number, split in enumerate(["training"] * 2 + ["validation", "test"]):
        noise = np.random.default_rng(number).integers(-8, 8, radius.shape)
        images = {"source": [300 + noise, 100 + noise, 0], "target": [40 + noise, 900 + noise, -1000]}
        for name, (brain, skull, air) in images.items():
            voxels = np.select([radius < 0.7, radius < 0.95], [brain, skull], air).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"{number}_{name}.nii.gz")
        files = {name: f"{number}_{name}.nii.gz" for name in images}
        content[split].append(files | {"subject": f"sub-{number}"})
    (folder / "pairs.json").write_text(json.dumps({"name": "heads"} | content))
    return folder / "pairs.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """model.pt of a translator."""
    torch.manual_seed(0)
    arguments = {"image_size": SIZE, "channels": [8, 16], "latent_channels": 2, "neighbours": 1}
    arguments |= {"kernel_sizes": [3, 5], "use_position": True}
    definition = {"_target_": "medsynth.models.translation.network.Translator"} | arguments
    judges = {"channels": 8, "num_layers": 1, "num_scales": 2, "norm": "spectral"}
    discriminator = {"_target_": "medsynth.nn.patch_discriminator.Discriminators"} | judges
    recipes = {
        "source": Preprocessing("mri", MRI, None, SIZE, neighbours=1).to_dict(),
        "target": Preprocessing("ct", CT, None, SIZE, neighbours=1).to_dict(),
    }
    spaces = {
        "source": SliceSpace("mri", (2.5, 3.0), 4.0, MRI).to_dict(),
        "target": SliceSpace("ct", (2.5, 3.0), 4.0, CT).to_dict(),
    }
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(
        path, Translator(**arguments), definition, recipes, [], {"spaces": spaces},
        (discriminator, Discriminators(**judges)),
    )  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def identity(monkeypatch) -> None:
    """Both directions hand slices on as they are."""
    monkeypatch.setattr(UNetVae, "forward", lambda _, image, position, sample: image[:, image.shape[1] // 2, None])


@pytest.fixture
def translate(run_bundle, model, tmp_path) -> Callable[..., Path]:
    """Translate into a folder, which is returned."""

    def run(**overrides: object) -> Path:
        options = {"checkpoint": str(model), "output_dir": str(tmp_path / "out"), "device": "cpu"} | overrides
        run_bundle("inference", "translation/inference.json", **options)
        return tmp_path / "out"

    return run


@pytest.fixture
def evaluate(run_bundle, model, pairs, cache_dir, tmp_path) -> Callable[..., Path]:
    """Evaluate into a folder, which is returned."""

    def run(**overrides: object) -> Path:
        options = {"checkpoint": str(model), "real": str(pairs), "output_dir": str(tmp_path / "out"), "device": "cpu"}
        options |= {"cache_dir": str(cache_dir), "split": "both"} | overrides
        run_bundle("evaluation", "translation/evaluate.json", **options)
        return tmp_path / "out"

    return run


def test_a_volume_comes_back_on_its_own_grid_in_the_target_s_units(translate, pairs):
    path = pairs.parent / "0_source.nii.gz"
    out = translate(input=str(path), num_samples=2)
    mean, deviation = (nib.load(file) for file in sorted((out / "images").glob("*.nii.gz")))
    source = np.asarray(nib.load(path).dataobj)
    for image in (mean, deviation):
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
        assert image.shape == source.shape
    inside = source > 0
    np.testing.assert_allclose(mean.get_fdata()[inside], source[inside] * 5 - 1000, atol=1)
    assert mean.get_data_dtype() == np.int16
    assert mean.get_fdata()[0, 0, 0] == -1000
    sidecar = json.loads((out / "images" / "translation_source_to_target_0000.json").read_text())
    assert (sidecar["Synthetic"], sidecar["Units"], sidecar["Samples"]) == (True, "HU", 2)
    assert sidecar["Preprocessing"]["modality"] == "ct"
    assert (out / "grid.png").is_file()


def test_of_a_datalist_the_images_that_the_direction_starts_from_are_translated(translate, pairs):
    out = translate(input=str(pairs), direction="target_to_source")
    rows = (out / "images.csv").read_text().splitlines()
    assert [row.rsplit(",", 1)[1] for row in rows] == ["split", "training", "training", "validation", "test"]
    made = nib.load(out / "images" / "translation_target_to_source_0002.nii.gz").get_fdata()
    ct = nib.load(pairs.parent / "2_target.nii.gz").get_fdata()
    np.testing.assert_allclose(made[ct > -1000], (ct[ct > -1000] + 1000) / 5, atol=0.2)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"direction": "source_to_targt"}, "choose one of source_to_target, target_to_source"),
        ({"input": None}, "no input is given"),
        ({"input": "nowhere"}, "input nowhere does not exist"),
        ({"num_samples": 0}, "num_samples is 0: give a whole number, 1 or more"),
        ({"planes": ["oblique"]}, "give a list with some of axial"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"input": "2_target.nii.gz"}, "has values down to -1000, as the air of CT"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(translate, pairs, overrides, told, monkeypatch, tmp_path):
    monkeypatch.chdir(pairs.parent)
    with pytest.raises(RuntimeError) as stopped:
        translate(**{"input": "0_source.nii.gz"} | overrides)
    assert told in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_bundle_is_refused(translate, pairs, tmp_path):
    definition = {"_target_": "medsynth.models.vaegan.network.VaeGan"} | VAEGAN
    save_model(tmp_path / "other.pt", VaeGan(**VAEGAN), definition, Preprocessing("mri", None, None, 16).to_dict())
    with pytest.raises(RuntimeError) as stopped:
        translate(checkpoint=str(tmp_path / "other.pt"), input=str(pairs))
    assert "the checkpoint holds a VaeGan: give the model.pt of a translation" in as_line(stopped.value)


def test_what_is_there_is_not_overwritten(translate, pairs):
    path = str(pairs.parent / "0_source.nii.gz")
    translate(input=path)
    with pytest.raises(RuntimeError) as stopped:
        translate(input=path)
    assert "is there already" in as_line(stopped.value)


def test_a_model_that_loses_to_a_lookup_table_is_told_so_first(evaluate, pairs):
    out = evaluate()
    metrics = json.loads((out / "metrics.json").read_text())
    errors = []
    for number in (2, 3):
        source, target = (
            nib.load(pairs.parent / f"{number}_{name}.nii.gz").get_fdata() for name in ("source", "target")
        )
        errors.append(np.abs(source * 5 - 1000 - target)[source > 0].mean())
    assert metrics["mae"]["value"] == pytest.approx(np.mean(errors), abs=1)
    assert metrics["mae"]["spread"] == pytest.approx(np.std(errors, ddof=1), abs=1)
    assert metrics["mae"]["unit"] == "HU"
    assert metrics["mae"]["baselines"]["intensity lookup"] < 20 < metrics["mae"]["baselines"]["histogram matching"]
    assert metrics["bone_dice"]["value"] < 0.1  # what should be brain is above 250 HU
    assert metrics["bone_dice"]["baselines"]["intensity lookup"] == pytest.approx(1)
    assert 0 <= metrics["discriminator_auc"]["value"] <= 1
    assert {"synthrad2023_mae", "synthrad2025_psnr", "slice_step_ratio", "binary_bce"} <= metrics.keys()
    html = (out / "report.html").read_text()
    assert html.index("Worse than a lookup of intensities in") < html.index("measures-title")
    assert len((out / "metrics.csv").read_text().splitlines()) == 3
    assert len(list((out / "images").glob("*.nii.gz"))) == 2


def test_both_directions_have_a_report_each_and_mri_is_compared_from_0_to_1(evaluate, pairs):
    out = evaluate(direction="both")
    assert (out / "source_to_target" / "report.html").is_file()
    metrics = json.loads((out / "target_to_source" / "metrics.json").read_text())
    assert metrics["mae"]["data_range"] == [0, 1]
    errors = []
    for number in (2, 3):
        mri, ct = (nib.load(pairs.parent / f"{number}_{name}.nii.gz").get_fdata() for name in ("source", "target"))
        errors.append(np.abs((ct + 1000) / 2000 - mri / 400)[mri > 0].mean())
    assert metrics["mae"]["value"] == pytest.approx(np.mean(errors), abs=0.02)
    assert metrics["mae"]["baselines"]["intensity lookup"] < 0.05


def test_held_out_images_of_one_domain_alone_cannot_be_compared(evaluate, pairs, tmp_path):
    content = json.loads(pairs.read_text())
    for split in ("validation", "test"):
        content[split] = [{key: value for key, value in entry.items() if key != "target"} for entry in content[split]]
    pairs.with_name("alone.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as stopped:
        evaluate(real=str(pairs.with_name("alone.json")))
    assert "no validation or test subject with a target" in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_target_on_another_grid_is_told(evaluate, pairs, tmp_path):
    content = json.loads(pairs.read_text())
    image = nib.load(pairs.parent / "3_target.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), pairs.parent / "moved.nii.gz")
    content["test"][0]["target"] = "moved.nii.gz"
    pairs.with_name("moved.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as stopped:
        evaluate(real=str(pairs.with_name("moved.json")), split="test")
    assert "sub-3: prediction and target lie up to 1 mm apart" in as_line(stopped.value)


def test_a_misspelt_override_is_refused_with_the_nearest_key(refused, tmp_path):
    line = refused("inference", "translation/inference.json", output_dir=tmp_path, num_sample=2)
    assert line.endswith("the nearest valid key is 'num_samples'")


@pytest.mark.parametrize(
    ("file", "direction", "cure"),
    [
        ("0_target.nii.gz", "source_to_target", "give --direction target_to_source, or go on with --force true"),
        ("0_source.nii.gz", "target_to_source", "give --direction source_to_target, or go on with --force true"),
    ],
)
def test_the_other_direction_s_input_is_refused_and_nothing_is_written(
    translate, pairs, tmp_path, file, direction, cure
):
    with pytest.raises(RuntimeError) as stopped:
        translate(input=str(pairs.parent / file), direction=direction)
    assert cure in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_force_translates_the_wrong_kind_and_the_sidecar_says_so(translate, pairs):
    out = translate(input=str(pairs.parent / "0_target.nii.gz"), force="true")
    (sidecar,) = (json.loads(file.read_text()) for file in (out / "images").glob("*.json"))
    assert "as the air of CT, and this model's input is MRI" in sidecar["Forced"]
    assert (sidecar["Direction"], sidecar["Planes"]) == ("source_to_target", ["axial"])
