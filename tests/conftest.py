from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import monai.bundle
import pytest
import torch

pytest_plugins = ("scans", "untrained_models", "round_images", "graph_double", "short_searches")
TOY = Path(__file__).parent / "toy"
torch.set_num_threads(1)  # a process that is forked while PyTorch has threads stands still


@pytest.fixture(autouse=True)
def _hooks_and_log_as_before() -> Iterator[None]:
    """What a run sets for its whole process ends with the test."""
    hooks, handlers, level = (sys.excepthook, threading.excepthook), logging.root.handlers[:], logging.root.level
    yield
    (sys.excepthook, threading.excepthook), logging.root.handlers, logging.root.level = hooks, handlers, level


@pytest.fixture
def toy_run(tmp_path: Path) -> Callable[..., Path]:
    """Train the toy bundle as `python -m monai.bundle run training` does; returns the run folder."""

    def train(folder: Path = tmp_path / "run", **overrides: object) -> Path:
        monai.bundle.run(
            "training",
            config_file=str(TOY / "train.json"),
            logging_file=str(TOY / "logging.conf"),
            output_dir=str(folder),
            **{key.replace("__", "#"): value for key, value in overrides.items()},
        )
        return folder

    return train
