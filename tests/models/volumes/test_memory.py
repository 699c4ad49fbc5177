from __future__ import annotations

import logging

import pytest
import torch

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing
from medsynth.errors import MedsynthError
from medsynth.models.volumes import memory
from medsynth.models.volumes.memory import check_memory, free_bytes, saved_bytes
from medsynth.models.volumes.network import VolumeFlow

CPU = torch.device("cpu")


def flow(*size: int, width: int = 32) -> VolumeFlow:
    return VolumeFlow(size, [width, 32], [32, 32], 0.0, 0, ())


def grid(*size: int) -> VolumePreprocessing:
    return VolumePreprocessing("mri", None, (4.0, 4.0, 4.0), size, region="head", finer=2)


def test_what_a_step_holds_grows_with_the_network_and_not_with_the_volume():
    small, wide = flow(32, 32, 48), flow(32, 32, 48, width=64)
    assert small.grids[0] == flow(64, 64, 96).grids[0]
    assert saved_bytes(wide, CPU) > saved_bytes(small, CPU)
    assert saved_bytes(flow(64, 64, 96), CPU) < 2 * saved_bytes(small, CPU)  # one more level, of the same crops


def test_counting_leaves_random_numbers_and_gradients_alone():
    network = flow(16, 16, 16)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    saved_bytes(network, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize(("size", "key"), [((16, 16, 16), "batch_size"), ((256, 256, 256), "size")])
def test_what_does_not_fit_is_refused_with_the_key_that_makes_it_fit(size, key, monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with caplog.at_level(logging.INFO), pytest.raises(MedsynthError, match=rf"cpu has 0.0 GB free: lower {key}$"):
        check_memory(flow(*size), grid(*size), 4, CPU)
    assert "a step with 4 volumes of" in caplog.text


def test_this_machine_says_what_is_free():
    assert free_bytes(CPU) > 10**8
