from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import monai.bundle
import pytest

from medsynth.data.phantom import phantom
from medsynth.errors import as_line

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datalist of a small phantom."""
    return phantom.write_dataset(tmp_path_factory.mktemp("heads") / "phantom", subjects=14, spacing_mm=6.0)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datalist of a small phantom of T1w and CT."""
    folder = tmp_path_factory.mktemp("pairs") / "phantom"
    phantom.write_dataset(folder, subjects=8, spacing_mm=8.0, modalities=("T1w", "CT"))
    return folder / "pairs.json"


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def run_bundle() -> Iterator[Callable[..., None]]:
    """Run a config file of `bundles/` as `python -m monai.bundle run` does, in this process."""
    hooks, handlers, level = (sys.excepthook, threading.excepthook), logging.root.handlers[:], logging.root.level

    def run(workflow: str, config: str, **overrides: object) -> None:
        overrides = {key.replace("__", "#"): value for key, value in overrides.items()}
        monai.bundle.run(workflow, config_file=str(ROOT / "bundles" / config), **overrides)

    yield run
    (sys.excepthook, threading.excepthook), logging.root.handlers, logging.root.level = hooks, handlers, level


@pytest.fixture(scope="session")
def trains(run_bundle, cache_dir) -> Callable[..., Callable[..., Path]]:
    """What trains with these settings, and others a call, in a folder, which it returns."""

    def of(config: str, datalist: Path, **settings: object) -> Callable[..., Path]:
        def start(folder: Path, **overrides: object) -> Path:
            options = {"datalist": str(datalist), "cache_dir": str(cache_dir)} | settings | overrides
            run_bundle("training", config, output_dir=str(folder), **options)
            return folder

        return start

    return of


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.Popen]:
    """Start two processes of a run as a user does; options of `torchrun` come first."""

    def start(*options: str, workflow: str, config: str, **overrides: object) -> subprocess.Popen:
        arguments = [item for key, value in overrides.items() for item in (f"--{key.replace('__', '#')}", str(value))]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
        return subprocess.Popen(
            [*launcher, "-m", "monai.bundle", "run", workflow, "--config_file", f"bundles/{config}", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """The one line that tells why a training does not begin; it leaves no losses and no checkpoint."""

    def why(train: Callable[..., Path], *config: str, **settings: object) -> str:
        with pytest.raises(RuntimeError) as stopped:
            train(*config, tmp_path / "run", **settings)
        assert not any((tmp_path / "run" / name).exists() for name in ("losses.csv", "checkpoints/latest.pt"))
        line = as_line(stopped.value)
        assert line is not None, stopped.value
        return line

    return why


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """The one line on stderr of a command that must fail with status 1, as a user types it."""

    def command(workflow: str, config: str, **overrides: object) -> str:
        arguments = [item for key, value in overrides.items() for item in (f"--{key.replace('__', '#')}", str(value))]
        process = subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", workflow, "--config_file", f"bundles/{config}", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 1
        lines = process.stderr.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert "Traceback" not in process.stderr + process.stdout
        return lines[-1]

    return command
