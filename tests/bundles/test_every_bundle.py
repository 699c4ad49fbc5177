"""What every system must stand, whatever it is: a bundle joins by its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpu_double import pretended_gpu
from monai.bundle import load_bundle_config
from two_ranks import run_on_two_ranks

from medsynth.packaging.packing import pack_bundle

ROOT = Path(__file__).parents[2]
STAGES = [(path.parent.name, path.name) for path in sorted(ROOT.glob("bundles/*/train*.json"))]
TINY = {"image_size": 32, "batch_size": 2, "epoch_length": 2, "sample_epochs": 100, "val_interval": 1, "device": "cpu"}
TINY |= {"patch_size": 16, "minibatch_group": 2}  # of those that have them


def config(stem: str, name: str) -> dict:
    return json.loads((ROOT / "bundles" / stem / name).read_text())


@pytest.fixture(scope="session")
def data(heads, pairs) -> Callable[[str], dict[str, str]]:
    """What a config's data keys get: one image set, or pairs where it has two domains."""

    def of(stem: str) -> dict[str, str]:
        two = "target_modality" in config(stem, "train.json")
        return {"datalist": str(pairs), "target_modality": "ct"} if two else {"datalist": str(heads)}

    return of


@pytest.fixture(scope="session")
def on_two_ranks(data, cache_dir, tmp_path_factory) -> Callable[[str, str], Path]:
    """The folder of a run of two iterations on two processes; made once. A later stage takes the first one's model."""
    folders: dict[tuple[str, str], Path] = {}

    def train(stem: str, name: str) -> Path:
        if (stem, name) not in folders:
            folders[stem, name] = folder = tmp_path_factory.mktemp(stem) / name.removesuffix(".json")
            options = settings(stem, name) | {"max_epochs": 1, "output_dir": str(folder)}
            messages = folder.with_suffix(".log")
            ended = run_on_two_ranks("training", ROOT / "bundles" / stem / name, messages, **options)
            assert ended == [0, 0], messages.read_text()[-3000:]
        return folders[stem, name]

    def settings(stem: str, name: str) -> dict[str, object]:
        known = config(stem, name)
        wanted = TINY | {"cache_dir": str(cache_dir)} | data(stem)
        if "checkpoint" in known:
            wanted["checkpoint"] = str(train(stem, "train.json") / "model.pt")
        return {key: value for key, value in wanted.items() if key in known}

    train.settings = settings
    return train


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_two_processes_train_and_one_goes_on(stem, name, on_two_ranks, run_bundle):
    folder = on_two_ranks(stem, name)
    assert json.loads((folder / "provenance.json").read_text())["processes"] == 2
    run_bundle("training", f"{stem}/{name}", **on_two_ranks.settings(stem, name), max_epochs=2, output_dir=str(folder))
    latest = torch.load(folder / "checkpoints/latest.pt", weights_only=True)
    assert latest["iteration"] == 4
    assert {"config.json", "model.pt", "losses.csv", "losses.png", "train.log", "index.html"} <= {
        path.name for path in folder.iterdir()
    }


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_it_trains_on_a_gpu(stem, name, on_two_ranks, run_bundle, tmp_path):
    options = on_two_ranks.settings(stem, name) | {"device": "cuda", "max_epochs": 1, "output_dir": str(tmp_path)}
    with pretended_gpu():
        run_bundle("training", f"{stem}/{name}", **options)
    assert json.loads((tmp_path / "provenance.json").read_text())["device"] == "cuda"
    assert (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_its_model_makes_images_and_is_judged_and_packed(stem, name, on_two_ranks, run_bundle, data, tmp_path):
    folder, known = on_two_ranks(stem, name), config(stem, "inference.json")
    checkpoint, datalist = str(folder / "model.pt"), data(stem)["datalist"]
    wanted = {"num_images": 2, "input": datalist, "device": "cuda", "batch_size": 2}
    if stem == "vqvae" and name == "train.json":
        wanted["mode"] = "reconstruct"  # a first stage has nothing to generate with
    options = {key: value for key, value in wanted.items() if key in known}
    if "num_images" in options and wanted.get("mode") is None:
        del options["input"]
    options |= {"checkpoint": checkpoint, "output_dir": str(tmp_path / "out")}
    judged = {"real": datalist, "checkpoint": checkpoint, "num_images": 24, "utility": False, "device": "cuda"}
    judged = {key: value for key, value in judged.items() if key in config(stem, "evaluate.json")}
    with pretended_gpu():
        run_bundle("inference", f"{stem}/inference.json", **options)
        run_bundle("evaluation", f"{stem}/evaluate.json", output_dir=str(tmp_path / "judged"), **judged)
    assert list((tmp_path / "out").rglob("*.nii.gz"))
    assert json.loads((tmp_path / "judged/metrics.json").read_text())

    packed = pack_bundle(ROOT / "bundles" / stem, Path(checkpoint), tmp_path / "pack", None, None)
    assert load_bundle_config(str(packed), "inference.json").get("checkpoint")
    assert (packed.parent / f"{packed.name}.zip").exists()
