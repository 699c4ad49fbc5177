from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import monai.bundle
import pytest
import torch

TOY = Path(__file__).parent / "toy"
torch.set_num_threads(1)  # a process that is forked while PyTorch has threads stands still


@pytest.fixture
def toy_run(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Train the toy bundle as `python -m monai.bundle run training` does; returns the run folder."""
    hook, handlers, level = sys.excepthook, logging.root.handlers[:], logging.root.level

    def train(folder: Path = tmp_path / "run", **overrides: object) -> Path:
        monai.bundle.run(
            "training",
            config_file=str(TOY / "train.json"),
            logging_file=str(TOY / "logging.conf"),
            output_dir=str(folder),
            **{key.replace("__", "#"): value for key, value in overrides.items()},
        )
        return folder

    yield train
    sys.excepthook, logging.root.handlers, logging.root.level = hook, handlers, level
