"""Translation from one source and from two: slices of a volume a CPU-second, and CPU-seconds of a training step."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from benchmarks.metrics import cpu_seconds
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.inference.volumes import VolumeInferer, read_ready
from medsynth.models.translation.network import UNetVae
from medsynth.models.translation.pair_slices import PairDataset
from medsynth.models.translation.trainer import TranslationTrainer

CONFIG = Path(__file__).parents[2] / "bundles" / "translation" / "train.json"
SLICES = 40
CONTRASTS = ("T1w", "T2w")  # of two sources


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `translation`."""
    parser = parsers.add_parser("translation", help="speed of a volume's translation and of a training step")
    parser.add_argument("--image_size", type=int, default=256, help="pixels a side")
    parser.add_argument("--batch_size", type=int, default=1, help="of the training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure both, and print the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = options.image_size
    with tempfile.TemporaryDirectory() as folder:
        path = made_up_head(Path(folder), size)
        print(f"{SLICES} slices of {size} x {size}, {options.threads} thread(s), batches of {options.batch_size}")
        print(
            f"{'sources':>8} {'directions':>11} {'M params':>9} {'slices/CPU-s, file to file':>27} {'CPU-s a step':>13}"
        )
        for contrasts in ((), CONTRASTS):
            trainer = full_trainer(path, size, options.batch_size, folder, contrasts)
            network = trainer.network.source_to_target.eval()
            preprocessing = trainer.data_loader.dataset.preprocessing["source"]
            speed = slices_per_second(network, preprocessing, path, contrasts)
            seconds, directions = cpu_seconds(lambda: step(trainer)), len(trainer.from_domain)  # noqa: B023
            millions = parameters(trainer) / 1e6
            print(f"{len(contrasts) or 1:>8} {directions:>11} {millions:>9.2f} {speed:>27.1f} {seconds:>13.2f}")


def slices_per_second(
    network: UNetVae, preprocessing: Preprocessing, path: Path, contrasts: Sequence[str] = ()
) -> float:
    """Through `VolumeInferer`, reading and writing included."""
    inferer, source = VolumeInferer(preprocessing, contrasts=contrasts), Source.of(entry(path, contrasts), "source")

    def translate() -> None:
        ready = read_ready(source, inferer.preprocessing, contrasts)
        values = ready.back(inferer(ready, network))
        nib.save(nib.Nifti1Image(values, ready.affine), path.with_name("out.nii.gz"))

    return SLICES / cpu_seconds(translate)


def full_trainer(
    path: Path, size: int, batch_size: int, cache_dir: str, contrasts: Sequence[str] = ()
) -> TranslationTrainer:
    """The trainer of the bundle's config with all terms that there are, on slices of one head, without handlers."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    settings = {"image_size": size, "batch_size": batch_size, "device": "cpu", "all_terms_on_pairs": not contrasts}
    parser.update(settings | {"weights#feature": 1.0, "network_def#contrasts": list(contrasts)})
    preprocessing = Preprocessing("mri", None, None, size, neighbours=parser["neighbours"])
    parser["train"]["dataset"] = PairDataset(
        [entry(path, contrasts)], preprocessing, preprocessing, cache_dir=cache_dir, contrasts=contrasts
    )
    parser["train"]["handlers"] = []
    return parser.get_parsed_content("train#trainer")


def entry(path: Path, contrasts: Sequence[str]) -> dict[str, Any]:
    """That of a datalist; all contrasts of the source are one file."""
    pair = {"source": str(path), "target": str(path.with_name("target.nii.gz")), "subject": "a", "label": None}
    return pair | ({"sources": dict.fromkeys(contrasts, str(path))} if contrasts else {})


def step(trainer: TranslationTrainer) -> None:
    """One of training."""
    trainer.state.iteration += 1
    trainer._iteration(trainer, next(iter(trainer.data_loader)))


def parameters(trainer: TranslationTrainer) -> int:
    """Of all networks."""
    return sum(p.numel() for network in (trainer.network, trainer.discriminator) for p in network.parameters())


def made_up_head(folder: Path, size: int) -> Path:
    """A noisy ellipsoid that fills its slices, and another contrast of it beside it."""
    axes = np.meshgrid(*(np.linspace(-1.05, 1.05, side) for side in (size, size, SLICES)), indexing="ij", sparse=True)
    noise = np.random.default_rng(0).normal(0, 20, (size, size, SLICES))
    inside = sum(axis**2 for axis in axes) < 1
    for name, brightness in (("source", 300), ("target", 150)):
        voxels = np.where(inside, brightness + noise, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([0.9, 0.9, 4.0, 1.0])), folder / f"{name}.nii.gz")
    return folder / "source.nii.gz"
