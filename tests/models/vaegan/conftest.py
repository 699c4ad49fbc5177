from __future__ import annotations

import csv
from pathlib import Path

import monai.bundle
import pytest

CONFIG = Path(__file__).parents[3] / "bundles" / "vaegan" / "inference.json"
CLASSES = {"0": "background", "2": "left lobe", "5": "right lobe"}


@pytest.fixture
def infer(tmp_path):
    """Run the bundle; returns the rows of images.csv."""

    def run(checkpoint: Path, segmentations: Path | None, **overrides: object) -> list[dict[str, str]]:
        arguments = {"checkpoint": str(checkpoint), "output_dir": str(tmp_path / "out"), "device": "cpu", "steps": 1}
        arguments |= {"segmentations": segmentations and str(segmentations), "overwrite": True} | overrides
        monai.bundle.run("inference", config_file=str(CONFIG), **arguments)
        return list(csv.DictReader((tmp_path / "out" / "images.csv").open()))

    return run


@pytest.fixture
def checkpoint(model_pt) -> Path:
    """A model of 16 pixels of 4 mm, to which label maps matter."""
    return model_pt(segmentation=CLASSES, spread=0.15)


@pytest.fixture
def checkpoint_of_pictures(model_pt) -> Path:
    """The same of pictures."""
    return model_pt("image", (0.0, 255.0), segmentation=CLASSES, spread=0.15)
