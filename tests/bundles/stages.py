"""Every training of every bundle, and settings with which it takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = [(path.parent.name, path.name) for path in sorted(ROOT.glob("bundles/*/train*.json"))]
TINY = {
    "image_size": 32,
    "size": [16, 16, 24],
    "detail_channels": [32, 32],
    "batch_size": 2,
    "epoch_length": 2,
    "sample_epochs": 100,
    "val_interval": 1,
    "device": "cpu",
    "channels": 8,
    "latent_features": 8,
    "prior_channels": [32, 32],
    "patch_size": 16,
    "minibatch_group": 2,
    "val_slices": 8,
}
WIDTHS = {
    "vaegan": 32,
    "translation": [8, 16],
    "vqvae": [16, 32],
    "volumes": [32, 32],
}  # `channels`, where 8 does not do


def config(stem: str, name: str) -> dict:
    """What a bundle's JSON file holds."""
    return json.loads((ROOT / "bundles" / stem / name).read_text())


def tiny(stem: str, name: str, **more: object) -> dict[str, object]:
    """Those of the settings, and of `more`, that the training knows; of `a__b` it has to know `a`."""
    known = config(stem, name)
    widths = {"channels": WIDTHS.get(stem, 8) if name == "train.json" else 16}
    return {key: value for key, value in (TINY | widths | more).items() if key.partition("__")[0] in known}
