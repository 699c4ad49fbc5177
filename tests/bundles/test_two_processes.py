from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medsynth.training.logging.table import Table

SMALL = {"channels": 8, "growth": 4, "patch_size": 16, "image_size": 32, "amp": False, "val_slices": 8}
SMALL |= {"epoch_length": 3, "sample_epochs": 100, "device": "cpu"}


@pytest.fixture
def settings(heads, cache_dir) -> dict[str, object]:
    return SMALL | {"datalist": str(heads), "cache_dir": str(cache_dir)}


def test_two_processes_reach_what_one_does_with_twice_the_batch(torchrun, run_bundle, settings, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    process = torchrun(
        workflow="training", config="superres/train.json", max_epochs=2, batch_size=2, output_dir=two, **settings
    )
    messages = process.communicate()[1]
    assert process.returncode == 0, messages[-3000:]
    run_bundle("training", "superres/train.json", max_epochs=2, batch_size=4, output_dir=str(one), **settings)
    weights = [
        torch.load(folder / "checkpoints/latest.pt", weights_only=True)["stateful"]["network"] for folder in (two, one)
    ]
    assert all(torch.allclose(found, weights[1][name], atol=1e-6) for name, found in weights[0].items())
    for table in ("losses.csv", "metrics.csv"):
        found, wanted = (Table(folder / table).read() for folder in (two, one))
        assert found.keys() == wanted.keys()
        for name in set(found) - {"seconds"}:
            assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def killed(torchrun, settings, tmp_path) -> Callable[..., tuple[int, str]]:
    """Exit status and messages of a run in `run/`, one of whose processes is killed after a checkpoint."""

    def start(*options: str, epochs: int) -> tuple[int, str]:
        lengths = {"max_epochs": epochs, "val_interval": epochs, "batch_size": 2, "output_dir": tmp_path / "run"}
        process = torchrun(*options, workflow="training", config="superres/train.json", **lengths, **settings)
        while not (tmp_path / "run/checkpoints/latest.pt").exists():
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.02)
        os.kill(children(process.pid)[1], signal.SIGKILL)
        messages = process.communicate()[1]
        return process.returncode, messages

    return start


def test_a_process_that_dies_is_replaced_and_the_run_goes_on_from_its_checkpoint(killed, tmp_path):
    status, messages = killed("--max-restarts=1", epochs=40)
    assert status == 0, messages[-3000:]
    assert "Going on from iteration" in (tmp_path / "run/train.log").read_text()
    assert torch.load(tmp_path / "run/checkpoints/latest.pt", weights_only=True)["iteration"] == 40 * 3


def test_the_others_say_in_one_line_that_a_process_has_died(killed):
    slowly = "--monitor-interval=5"  # seconds, in which they find out before torchrun stops them
    status, messages = killed(slowly, epochs=100_000)
    assert status != 0
    assert "error: another process of this run has ended" in messages
