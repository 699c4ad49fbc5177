from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.errors import as_line

SIZE = 32
KEYS = {"value", "unit", "direction", "n", "interval", "floor", "baseline", "note", "seed", "split", "patients"}


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """The datalist of pictures of discs: 12 subjects of 12 pictures, two classes; the folder also has `fakes`."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]

    def save(path: Path, subject: int) -> str:
        radius = 0.4 + 0.03 * subject + 0.05 * rng.random()
        disc = (x**2 + (y * (1 + 0.2 * rng.random())) ** 2 < radius**2) * (120 + 100 * rng.random())
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((disc + 12 * rng.random(disc.shape)).clip(0, 255).astype(np.uint8)).save(path)
        return str(path.relative_to(folder))

    splits = {"training": range(5), "validation": range(5, 8), "test": range(8, 10)}
    content = {
        split: [
            {"image": save(folder / f"real/s{s}/{i}.png", s), "subject": f"s{s}", "label": "AD" if s % 2 else "NC"}
            for s in subjects
            for i in range(12)
        ]
        for split, subjects in splits.items()
    }
    for i in range(60):
        save(folder / f"fakes/{'AD' if i % 2 else 'NC'}/{i:03d}.png", i % 10)
    (folder / "discs.json").write_text(json.dumps({"name": "discs"} | content))
    return folder / "discs.json"


@pytest.fixture(scope="module")
def evaluate(run_bundle, discs, tmp_path_factory) -> Callable[..., Path]:
    """Evaluate into a folder, which is returned; no utility, which takes long."""
    cache = tmp_path_factory.mktemp("cache")

    def run(output: Path, config: str = "evaluation/evaluate.json", **overrides: object) -> Path:
        options = {"real": str(discs), "split": "both", "cache_dir": str(cache), "utility": False, "device": "cpu"}
        run_bundle("evaluation", config, output_dir=str(output), **options | overrides)
        return output

    return run


@pytest.fixture(scope="module")
def report(evaluate, discs, tmp_path_factory) -> Path:
    """The folder of a report on pictures."""
    return evaluate(tmp_path_factory.mktemp("evaluation") / "out", synthetic=str(discs.parent / "fakes"))


def test_a_report_has_its_files_and_every_number_what_it_takes_to_read_it(report):
    assert {path.name for path in report.iterdir()} >= {"metrics.json", "metrics.csv", "figures", "report.html"}
    metrics = json.loads((report / "metrics.json").read_text())
    assert set(metrics) >= {"fd_self", "kid_self", "swd", "psd", "precision", "c2st_auc", "closer_to_train"}
    assert all(values.keys() >= KEYS for values in metrics.values())
    assert all(values["value"] is not None or values["note"] for values in metrics.values())
    assert (report / "figures/grid_synthetic_AD.png").is_file()


def test_the_page_says_verdicts_in_words_and_asks_for_nothing_from_elsewhere(report):
    html = (report / "report.html").read_text()
    for topic in ("Fidelity", "Diversity", "Utility", "Privacy", "no proof of anonymity"):
        assert topic in html
    assert "http://" not in html
    assert 'src="http' not in html


@pytest.mark.parametrize(
    ("split", "count", "words"),
    [
        ("test", 2, "Figures are read on 2 test patients, who taught and chose nothing."),
        (
            "validation",
            3,
            "Figures are read on 3 validation patients: validation chose the model, so the figures flatter",
        ),
    ],
)
def test_the_top_of_the_report_says_on_whom_it_was_read(evaluate, discs, tmp_path, split, count, words):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((discs.parent / "fakes/AD").iterdir())[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    out = evaluate(tmp_path / "out", synthetic=str(few), split=split)
    measures = json.loads((out / "metrics.json").read_text()).values()
    assert {(values["split"], values["patients"]) for values in measures} == {(split, count)}
    html = (out / "report.html").read_text()
    assert html.index(words) < html.index('id="verdict"')


def test_a_report_is_not_overwritten(evaluate, report, discs):
    with pytest.raises(RuntimeError) as stopped:
        evaluate(report, synthetic=str(discs.parent / "fakes"))
    assert "is there already" in as_line(stopped.value)


def test_three_images_give_a_report_that_says_why_there_are_no_numbers(evaluate, discs, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for path in sorted((discs.parent / "fakes/AD").iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    metrics = json.loads((evaluate(tmp_path / "out", synthetic=str(folder)) / "metrics.json").read_text())
    assert metrics["fd_self"]["value"] is None
    assert "3 synthetic images" in metrics["fd_self"]["note"]
    assert "3 synthetic images" in (tmp_path / "out/report.html").read_text()


def nifti(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32)[..., None], np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no image"),
        (lambda folder: nifti(folder / "a.nii.gz", np.full((SIZE, SIZE), np.nan)), "not finite (NaN)"),
        (lambda folder: nifti(folder / "a.nii.gz", 900 * np.ones((SIZE, SIZE))), 'give --window "[low, high]"'),
        (lambda folder: nifti(folder / "a.nii.gz", np.ones((SIZE, 20))), "give square images of that size"),
    ],
)
def test_synthetic_images_that_cannot_be_used_are_told_in_one_line(evaluate, tmp_path, make, told):
    make(tmp_path / "fakes")
    with pytest.raises(RuntimeError) as stopped:
        evaluate(tmp_path / "out", synthetic=str(tmp_path / "fakes"))
    assert told in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"synthetic": None}, "name their folder with --synthetic"),
        ({"image_size": 64}, "leave image_size out"),
        ({"num_images": 0}, "num_images is 0"),
        ({"split": "tset"}, "split is 'tset': give validation, test, both"),
        ({"split": "tset", "paired": True}, "split is 'tset': give validation, test, both"),
        ({"real": "."}, "is a folder, which does not say what the generator was trained on"),
        ({"paired": True, "synthetic": None}, "pairs need both"),
    ],
)
def test_options_that_cannot_be_are_told_in_one_line(evaluate, discs, tmp_path, overrides, told):
    with pytest.raises(RuntimeError) as stopped:
        evaluate(tmp_path / "out", **{"synthetic": str(discs.parent / "fakes")} | overrides)
    assert told in as_line(stopped.value)


def test_a_misspelt_override_is_refused_with_the_nearest_key(refused, tmp_path):
    line = refused("evaluation", "evaluation/evaluate.json", output_dir=tmp_path, sinthetic="x")
    assert line.endswith("the nearest valid key is 'synthetic'")


def test_real_images_without_held_out_subjects_are_told(evaluate, discs, tmp_path):
    content = json.loads(discs.read_text()) | {"validation": [], "test": []}
    alone = discs.with_name("alone.json")
    alone.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as stopped:
        evaluate(tmp_path / "out", real=str(alone), synthetic=str(discs.parent / "fakes"))
    assert "no validation or test subjects" in as_line(stopped.value)


def test_a_model_is_evaluated_on_images_that_it_makes_with_a_map_of_its_latents(
    evaluate, discs, model_of_discs, tmp_path
):
    out = evaluate(tmp_path / "out", "vaegan/evaluate.json", checkpoint=str(model_of_discs), num_images=56)
    assert len(list((out / "images").glob("*.nii.gz"))) == 56
    assert (out / "figures/tsne_latents_z.png").is_file()
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["preprocessing"]["image_size"] == SIZE
    assert json.loads((out / "metrics.json").read_text())["fd_pca"] is not None


@pytest.fixture(scope="module")
def model_of_discs(run_bundle, discs, cache_dir, tmp_path_factory) -> Path:
    """model.pt of a VAE-GAN trained for a moment."""
    folder = tmp_path_factory.mktemp("model") / "run"
    options = {"datalist": str(discs), "modality": "image", "image_size": SIZE, "channels": 32}
    options |= {
        "prior_channels": [32, 32],
        "prior_from": 0.5,
        "batch_size": 8,
        "max_epochs": 1,
        "epoch_length": 2,
        "device": "cpu",
    }
    run_bundle("training", "vaegan/train.json", output_dir=str(folder), cache_dir=str(cache_dir), **options)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """`pairs.json` of small volumes with `predictions/` beside it, 20 HU above their targets."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    y, x, z = np.mgrid[-1:1:24j, -1:1:24j, -1:1:12j]
    content: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number, split in enumerate(["training"] * 2 + ["validation", "test"]):
        target = np.where(x**2 + y**2 < 0.5, 60 + 300 * (x > 0.3) + 10 * rng.standard_normal(x.shape), -1000)
        volumes = {"source": 500 - 0.3 * target, "target": target}
        if split != "training":
            volumes["predictions"] = target + 20
        for name, voxels in volumes.items():
            path = folder / name / f"sub-{number}_{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([3.0, 3, 3, 1])), path)
        files = {name: f"{name}/sub-{number}_{name}.nii.gz" for name in ("source", "target")}
        content[split].append(files | {"subject": f"sub-{number}"})
    (folder / "pairs.json").write_text(json.dumps(content))
    return folder / "pairs.json"


def test_predictions_are_compared_with_their_targets(evaluate, pairs, tmp_path):
    out = evaluate(tmp_path / "out", real=str(pairs), synthetic=str(pairs.parent / "predictions"), paired=True)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["mae"]["value"] == pytest.approx(20, abs=1e-3)
    assert metrics["bias"]["value"] == pytest.approx(20, abs=1e-3)
    assert metrics["mae"]["unit"] == "HU"
    assert metrics["mae"]["n"] == metrics["mae"]["patients"] == 2
    assert metrics["mae"]["baseline"] is not None
    assert len((out / "metrics.csv").read_text().splitlines()) == 3
    html = (out / "report.html").read_text()
    assert 'data-name="error"' in html
    assert "http://" not in html


def test_pairs_on_different_grids_are_an_error_that_names_the_subject(evaluate, pairs, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (pairs.parent / "predictions").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata(), image.affine + np.diag([0.1, 0, 0, 0])), moved / path.name)
    with pytest.raises(RuntimeError) as stopped:
        evaluate(tmp_path / "out", real=str(pairs), synthetic=str(moved), paired=True)
    assert "sub-2" in as_line(stopped.value)
    assert "mm apart" in as_line(stopped.value)
