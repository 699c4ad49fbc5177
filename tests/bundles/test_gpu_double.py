from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from gpu_double import pretended_gpu
from torch import nn


@pytest.fixture(autouse=True)
def gpu():
    with pretended_gpu():
        yield


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: nn.Linear(2, 1)(there),
        lambda there, here: nn.Linear(2, 1).to("cuda")(here),
        lambda there, here: here[there.long()],
        lambda there, here: there.index_copy_(0, torch.arange(2), there),
    ],
)
def test_tensors_of_both_devices_are_refused(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(torch.ones(2, device="cuda"), torch.ones(2))


def test_an_array_is_made_in_main_memory_alone():
    there = torch.ones(2, device="cuda")
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        there.numpy()
    assert there.cpu().numpy().tolist() == [1, 1]


def test_numbers_and_indices_may_come_from_main_memory():
    there = torch.arange(3.0).to("cuda")
    assert (there + torch.tensor(1.0)).device.type == "cuda"
    assert there[torch.tensor([2])].tolist() == [2]


def test_what_comes_of_tensors_there_is_there():
    network = deepcopy(nn.Linear(2, 1).to(torch.device("cuda")))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    output = network(torch.ones(1, 2).cuda())
    output.mean().backward()
    optimizer.step()
    results = [output, network.weight.grad, network.state_dict()["weight"], torch.zeros_like(output), output.to(int)]
    assert {result.device.type for result in results} == {"cuda"}
    assert isinstance(network.weight, nn.Parameter)
    assert torch.zeros(2).copy_(output[0]).device.type == "cpu"
