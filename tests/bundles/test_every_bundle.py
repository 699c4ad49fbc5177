"""What every system must stand, whatever it is: a bundle joins by its folder alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_double import pretended_gpu
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow, load_bundle_config
from monai.engines import Evaluator
from stages import ROOT, STAGES, config, tiny
from tables import losses, texts
from torch import Tensor
from two_ranks import run_on_two_ranks

from medsynth.errors import as_line
from medsynth.inference import reconstruct
from medsynth.models.translation import inference as translation
from medsynth.packaging.packing import pack_bundle
from medsynth.training.guards import TimeLimit

THREE_EPOCHS = {"max_epochs": 3, "epoch_length": 5, "log_iterations": 4}
UNDER_WAY = {  # what a stop must find under way: a fade-in, a probability of augmentation, a second stage
    "stylegan": {"image_size": 16, "batch_sizes": [4, 4], "fade_kimg": [0.1], "stable_kimg": [0.008]}
    | {"batch_size": 4, "augmentation__target": 0.0, "augmentation__kimg": 0.1},
    "superres": {"adversarial_epochs": 1},
    "vqvae": {"adversarial_epochs": 1},
}


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

    def settings(stem: str, name: str, **more: object) -> dict[str, object]:
        more = {"cache_dir": str(cache_dir)} | data(stem) | more
        if "checkpoint" in config(stem, name):
            more["checkpoint"] = str(train(stem, "train.json") / "model.pt")
        return tiny(stem, name, **more)

    train.settings = settings
    return train


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_two_processes_train_and_one_goes_on(stem, name, on_two_ranks, run_bundle):
    folder = on_two_ranks(stem, name)
    assert json.loads((folder / "provenance.json").read_text())["processes"] == 2
    run_bundle("training", f"{stem}/{name}", **on_two_ranks.settings(stem, name), max_epochs=2, output_dir=str(folder))
    latest = torch.load(folder / "checkpoints/latest.pt", weights_only=True)
    assert latest["iteration"] == 4


@pytest.fixture(scope="module")
def three_epochs(on_two_ranks, run_bundle, tmp_path_factory) -> Callable[..., Path]:
    """Train for three short epochs into a folder, which is returned; without a folder, once into one of its own."""
    folders: dict[tuple[str, str], Path] = {}

    def train(stem: str, name: str, folder: Path | None = None) -> Path:
        if folder is None and (stem, name) in folders:
            return folders[stem, name]
        output = folder or folders.setdefault((stem, name), tmp_path_factory.mktemp(stem) / "whole")
        options = on_two_ranks.settings(stem, name, **(THREE_EPOCHS | UNDER_WAY.get(stem, {})))
        run_bundle("training", f"{stem}/{name}", output_dir=str(output), **options)
        return output

    return train


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_a_run_folder_holds_what_users_rely_on(stem, name, three_epochs):
    folder = three_epochs(stem, name)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {"losses.csv", "losses.png", "metrics.csv"}
    others = {"config.json", "model.pt", "checkpoints/latest.pt", "train.log", "provenance.json", "index.html"}
    assert files >= tables | others | {"samples/epoch_0000.png", "samples/epoch_0003.png"}
    assert any(name.startswith("tensorboard/") for name in files)


@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_a_run_that_is_stopped_twice_is_to_the_bit_one_in_a_piece(stem, name, three_epochs, tmp_path, monkeypatch):
    whole, parts = three_epochs(stem, name), tmp_path / "parts"

    validate = Evaluator.run

    def stop_in_mid_epoch(limit: TimeLimit, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=7), lambda: signal.raise_signal(signal.SIGTERM))

    def fail_after_the_second_epoch(evaluator: Evaluator, epoch: int = 1) -> None:
        validate(evaluator, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TimeLimit, "attach", stop_in_mid_epoch)
    with pytest.raises(SystemExit):
        three_epochs(stem, name, parts)
    monkeypatch.undo()
    monkeypatch.setattr(Evaluator, "run", fail_after_the_second_epoch)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        three_epochs(stem, name, parts)
    monkeypatch.undo()
    three_epochs(stem, name, parts)
    assert (parts / "train.log").read_text().count("Going on from iteration 7") == 2
    assert losses(parts) == losses(whole)
    assert texts(parts / "metrics.csv") == texts(whole / "metrics.csv")
    saved = [torch.load(folder / "checkpoints/latest.pt", weights_only=True) for folder in (parts, whole)]
    for part in ("stateful", "random_state"):
        assert same(*(content[part] for content in saved))


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize(
    ("stem", "asked", "told"),
    [
        ("stylegan", {"mode": "project", "truncation": 2}, "truncation is 2"),
        ("stylegan", {"mode": "project", "label": "AD"}, "mode is project, where label changes nothing"),
        ("stylegan", {"mode": "interpolate", "label": "MCI"}, "there is an input: add --mode project"),
        ("vqvae", {"mode": "encode", "batch_size": 0}, "batch_size is 0"),
        ("vqvae", {"mode": "reconstruct", "position": 0.5}, "mode is reconstruct, where position changes nothing"),
        ("vqvae", {"mode": "compress"}, "choose one of generate, reconstruct, encode, decode"),
        ("superres", {"scale": 8}, "scale is 8, and this model makes x2"),
        ("superres", {"tile_size": 1}, "tile_size is 1"),
        ("translation", {"direction": "up"}, "direction is 'up'"),
        ("translation", {"num_samples": 0}, "num_samples is 0"),
        ("translation", {"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_a_request_is_checked_before_inputs_are_looked_for(
    stem, asked, told, untrained, run_bundle, monkeypatch, tmp_path
):
    for module in (reconstruct, translation):
        monkeypatch.setattr(module, "find_inputs", lambda *_, **__: pytest.fail("inputs were looked for"))
    options = {"checkpoint": str(untrained(stem)), "input": "scans", "output_dir": str(tmp_path / "out")}
    with pytest.raises(Exception, match=".") as refused:
        run_bundle("inference", f"{stem}/inference.json", device="cpu", **options | asked)
    assert told in as_line(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("run_bundle")
@pytest.mark.parametrize(("stem", "name"), STAGES)
def test_monai_finds_every_property_of_a_training_bundle(stem, name, on_two_ranks, tmp_path):
    settings = on_two_ranks.settings(stem, name) | {"output_dir": str(tmp_path / "run"), "max_epochs": 5}
    workflow = ConfigWorkflow(str(ROOT / "bundles" / stem / name), workflow_type="train", **settings)
    workflow.initialize()
    assert not workflow.check_properties()
    assert workflow.max_epochs == workflow.trainer.state.max_epochs == 5


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
    wanted = {"num_images": 2, "input": datalist, "device": "cuda", "batch_size": 2, "steps": 1}
    if stem == "vqvae" and name == "train.json":
        wanted["mode"] = "reconstruct"  # a first stage has nothing to generate with
    options = {key: value for key, value in wanted.items() if key in known}
    if "num_images" in options and wanted.get("mode") is None:
        del options["input"]
    options |= {"checkpoint": checkpoint, "output_dir": str(tmp_path / "out")}
    judged = {"real": datalist, "checkpoint": checkpoint, "num_images": 8 if stem == "volumes" else 24, "steps": 1}
    judged |= {"utility": False, "device": "cuda"}
    judged = {key: value for key, value in judged.items() if key in config(stem, "evaluate.json")}
    with pretended_gpu():
        run_bundle("inference", f"{stem}/inference.json", **options)
        run_bundle("evaluation", f"{stem}/evaluate.json", output_dir=str(tmp_path / "judged"), **judged)
    assert list((tmp_path / "out").rglob("*.nii.gz"))
    assert json.loads((tmp_path / "judged/metrics.json").read_text())

    packed = pack_bundle(ROOT / "bundles" / stem, Path(checkpoint), tmp_path / "pack", None, None)
    assert load_bundle_config(str(packed), "inference.json").get("checkpoint")
    assert (packed.parent / f"{packed.name}.zip").exists()
