"""Every training on every kind of data: two epochs with a stop between them, then what its inference does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stages import STAGES, config, tiny

from medsynth.data.datalist import datalist
from medsynth.data.datalist.datalist import Datalist, hold_out
from medsynth.data.datalist.layout import survey
from medsynth.data.datalist.pairs import pair_domains

KINDS = ("heads", "ct", "pictures", "pictures with classes", "pictures without positions")
PICTURES = {
    "pictures": "{split}/p{subject:02}_{slice:03}.png",
    "pictures with classes": "{split}/{label}/p{subject:02}_{slice:03}.png",
    "pictures without positions": "{split}/{label}/{label}_{number}.png",
}


def head(subject: int, place: int, bright: int) -> Image.Image:
    """An ellipse with a dark hole, larger in the middle slices."""
    rows, columns = np.mgrid[-1:1:36j, -1:1:30j]
    radius = (rows / (0.6 + 0.01 * subject)) ** 2 + (columns / 0.8) ** 2 + 0.1 * abs(place - 2)
    noise = np.random.default_rng([subject, place]).integers(0, 8, radius.shape)
    return Image.fromarray((np.where(radius < 1, bright, 0) * (radius > 0.1) + noise).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Callable[[str, bool], Path]:
    """The datalist of made-up pictures of a kind, of one set or of two domains; made as the tool makes it."""

    def make(kind: str, two: bool) -> Path:
        folder = tmp_path_factory.mktemp("pictures")
        for number, (subject, place) in enumerate(np.ndindex(26, 5)):
            split, label = ("test" if subject >= 24 else "train"), "ab"[subject % 2]
            facts = {"subject": subject, "slice": place + 20, "number": number, "label": label}
            for domain, bright in (("A", 200), ("B", 90)) if two else (("", 200),):
                path = folder / "set" / PICTURES[kind].format(split=split + domain, **facts)
                path.parent.mkdir(parents=True, exist_ok=True)
                head(subject, place, bright).save(path)
        found = survey(folder / "set")
        if two and kind != "pictures with classes":
            pair_domains(found)
        training, validation = hold_out(found.splits["training"])
        splits = found.splits | {"training": training, "validation": validation}
        datalist.write(folder / "list.json", Datalist("made", splits))
        return folder / "list.json"

    return make


@pytest.fixture(scope="module")
def data(heads, pairs, pictures, tmp_path_factory) -> Callable[[str, str], dict[str, str]]:
    """What a config's data keys get for a kind of data."""

    def turned(keys: dict[str, str]) -> Path:
        content = json.loads(pairs.read_text())
        for split in ("training", "validation", "test"):
            content[split] = [
                {new: entry[old] for new, old in keys.items()} | {"subject": entry["subject"]}
                for entry in content[split]
            ]
        path = pairs.with_name(f"{'_'.join(keys)}.json")
        path.write_text(json.dumps(content))
        return path

    def of(stem: str, kind: str) -> dict[str, str]:
        two = "target_modality" in config(stem, "train.json")
        if kind.startswith("pictures"):
            return {"datalist": str(pictures(kind, two)), "modality": "image"}
        if kind == "heads":
            return {"datalist": str(pairs), "target_modality": "ct"} if two else {"datalist": str(heads)}
        if two:
            swapped = turned({"source": "target", "target": "source"})
            return {"datalist": str(swapped), "source_modality": "ct", "target_modality": "mri"}
        return {"datalist": str(turned({"image": "target"})), "modality": "ct"}

    return of


@pytest.fixture(scope="module")
def trained(data, run_bundle, cache_dir, tmp_path_factory) -> Callable[[str, str, str], tuple[Path, str]]:
    """The folder of a run that was stopped after an epoch and went on, and its datalist; made once."""
    made: dict[tuple[str, str, str], tuple[Path, str]] = {}

    def train(stem: str, name: str, kind: str) -> tuple[Path, str]:
        if (stem, name, kind) not in made:
            folder = tmp_path_factory.mktemp(stem) / "run"
            more = {"cache_dir": str(cache_dir), "output_dir": str(folder)}
            if "checkpoint" in config(stem, name):
                first, listed = train(stem, "train.json", kind)
                more |= {"checkpoint": str(first / "model.pt"), "datalist": listed}
            else:
                more |= data(stem, kind)
            options = tiny(stem, name, **more)
            for epochs in (1, 2):
                run_bundle("training", f"{stem}/{name}", max_epochs=epochs, **options)
            made[stem, name, kind] = folder, options["datalist"]
        return made[stem, name, kind]

    return train


@pytest.mark.parametrize(
    ("stem", "name", "kind"),
    [
        (*stage, kind)
        for stage in STAGES
        for kind in KINDS
        if not (stage[0] == "volumes" and kind.startswith("pictures"))
    ],
)
def test_a_run_goes_on_and_its_model_makes_images(stem, name, kind, trained, run_bundle, tmp_path):
    folder, listed = trained(stem, name, kind)
    assert "Going on from iteration 2" in (folder / "train.log").read_text()
    known = config(stem, "inference.json")
    wanted = {"checkpoint": str(folder / "model.pt"), "num_images": 3, "batch_size": 2, "device": "cpu"}
    if "num_images" not in known or (stem, name) == ("vqvae", "train.json"):
        wanted |= {"input": listed, "mode": "reconstruct"}
    wanted |= {"format": "png"} if kind.startswith("pictures") else {}
    options = {key: value for key, value in wanted.items() if key in known}
    run_bundle("inference", f"{stem}/inference.json", output_dir=str(tmp_path / "out"), **options)
    made = list((tmp_path / "out" / "images").glob("*.png" if kind.startswith("pictures") else "*.nii.gz"))
    given = "source" if stem == "translation" else "image"
    assert len(made) == (len(listed_images(listed, given)) if "input" in options else 3)


def listed_images(path: str, key: str) -> list[str]:
    """All images of that key in a datalist."""
    content = json.loads(Path(path).read_text())
    splits = ("training", "validation", "test")
    return [entry[key] for split in splits for entry in content[split] if key in entry]
