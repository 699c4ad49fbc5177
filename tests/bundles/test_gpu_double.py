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
        lambda there, here: torch.stack([there[0], here[0]]),
        lambda there, here: here.sum().add_(there.sum()),
        lambda there, here: there.__setitem__([0, 1], here),
    ],
)
def test_tensors_of_both_devices_are_refused(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(torch.ones(2, device="cuda"), torch.ones(2))


def test_random_numbers_there_take_no_generator_of_main_memory():
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())


def test_an_array_is_made_in_main_memory_alone():
    there = torch.ones(2, device="cuda")
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        there.numpy()
    assert there.cpu().numpy().tolist() == [1, 1]


def test_numbers_and_indices_may_come_from_main_memory():
    there = torch.arange(3.0).to("cuda")
    assert (there + torch.tensor(1.0)).device.type == "cuda"
    assert there[torch.tensor([2])].tolist() == [2]
    here = torch.zeros(2)
    here[0] = there[2]
    assert (here.tolist(), here.device.type) == ([2, 0], "cpu")


def test_what_moves_leaves_what_it_came_from():
    here = torch.ones(2)
    assert torch.as_tensor(here, device="cuda").device.type == "cuda"
    assert here.device.type == "cpu"
    network = nn.Linear(2, 1).to("cuda").to("cuda")
    assert network.weight.device.type == "cuda"
    assert network.cpu().weight.device.type == "cpu"


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
