from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn


@pytest.fixture
def train(benchmark):
    return benchmark("train")


def test_flops_are_counted_forwards_backwards_and_in_gradients_of_gradients(train):
    layer, inputs = nn.Linear(8, 4, bias=False), torch.randn(2, 8, requires_grad=True)
    with train.CountFlops() as counter:
        layer(inputs).sum().backward()
    assert counter.total == 3 * 2 * 2 * 8 * 4  # the product, and one for each gradient
    with train.CountFlops() as counter:
        (gradient,) = torch.autograd.grad(layer(inputs).square().sum(), inputs, create_graph=True)
        gradient.square().sum().backward()
    assert counter.total > 3 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(("parameters", "width"), [(70, 8), (1, 2), (9999, 18)])
def test_the_width_is_the_one_closest_to_the_parameters_wanted(train, parameters, width):
    assert (
        train.closest_width(lambda width: [nn.Linear(width, width, bias=False)], range(2, 20, 2), parameters) == width
    )


def test_parameters_that_take_no_gradient_do_not_count(train):
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert train.trainable([frozen, nn.Linear(3, 2)]) == 8


def test_the_step_is_the_bundle_s_own_and_trains(train):
    step, networks, precision = train.bundle_step(64, 2, 1_000_000, amp=False, device="cpu")
    before = [[parameter.clone() for parameter in network.parameters()] for network in networks]
    step(torch.rand(2, 1, 64, 64) * 2 - 1)
    for network, start in zip(networks, before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), start, strict=True))
    assert precision == "float32"


def test_the_rate_counts_images_against_the_clock_and_the_cpu(train, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock) * 1.0)
    monkeypatch.setattr(train.time, "process_time", iter([10.0, 12.0]).__next__)
    steps = []
    per_second, per_cpu_second = train.rate(lambda images: steps.append(len(images)), torch.zeros(7, 1, 2, 2), 3.0)
    assert steps == [7, 7]  # the clock moves on by 1 at each look: start, two looks before 3 s are over
    assert per_second == pytest.approx(14 / 4)
    assert per_cpu_second == pytest.approx(14 / 2)


def test_the_memory_of_tensors_is_weights_and_what_a_step_needs_at_once(train):
    mib = 2**20

    def build(size: int, batch_size: int, parameters: int) -> train.Step:
        torch.empty(64 * mib, dtype=torch.uint8)  # gone before the steps
        weights = torch.zeros(4 * mib, dtype=torch.uint8)

        def step(images: torch.Tensor) -> None:
            for _ in range(3):
                weights + torch.empty(8 * mib, dtype=torch.uint8)[: len(weights)]

        return step, [], "float32"

    assert train.tensors_mib(build, 2, 1, 0, threads=1) == pytest.approx(4 + 8 + 4, abs=0.1)


@pytest.mark.parametrize(
    ("is_used", "kinds"), [(False, {torch.float32}), (True, {torch.float32, torch.bfloat16})], ids=["without", "with"]
)
def test_the_peak_is_measured_in_bfloat16_only_where_training_uses_it(train, monkeypatch, is_used, kinds):
    multiplied = set()
    monkeypatch.setattr(train, "MATRIX", 8)
    monkeypatch.setattr(train, "use_bfloat16", lambda device, amp: is_used)
    monkeypatch.setattr(train.torch, "mm", lambda a, b: multiplied.add(a.dtype))
    assert train.matrix_peak(torch.get_num_threads(), "cpu") > 0
    assert multiplied == kinds


def test_systems_are_measured_in_turns_and_the_fastest_turn_of_each_counts(train, monkeypatch):
    rates, calls = iter([10.0, 3.0, 30.0, 1.0, 20.0, 2.0]), []

    def in_new_process(function, step, size, batch_size, parameters, threads, *more):
        calls.append((function.__name__, step, parameters))
        if function is not train.measure:
            return 5.0
        assert more == (12.0, "cpu")
        return train.Measurement("float32", 77, next(rates), 1.0, 100.0, 50.0)

    monkeypatch.setattr(train, "in_new_process", in_new_process)
    options = argparse.Namespace(batch_size=16, threads=1, seconds=12.0, device="cpu")
    found = train.measure_in_turns(["ours", "peer"], 64, options)
    assert calls[:4] == [
        ("measure", "ours", train.PARAMETERS),
        ("measure", "peer", 77),
        ("measure", "ours", 77),
        ("measure", "peer", 77),
    ]
    assert [turn.per_second for turn in found] == [30.0, 3.0]
    assert all(turn.flops_per_image == turn.tensors_mib == 5.0 for turn in found)
