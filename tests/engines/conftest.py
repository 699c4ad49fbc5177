from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import nn

from medsynth.engines import replay


@pytest.fixture
def record_on_cpu(monkeypatch) -> Callable[..., None]:
    """Called with parameters: work that leaves gradients in them is recorded as on a GPU; notes go to `log`."""

    def install(parameters: Iterable[nn.Parameter], log: list[str] | None = None) -> None:
        monkeypatch.setattr(replay, "recorded", partial(recorded, list(parameters), [] if log is None else log))

    return install


def recorded(parameters, log, compute, inputs, memory):
    """What runs `compute` again into the same tensors, as a CUDA graph does, and the tensors of its results."""
    log.append("recorded")
    with torch.random.fork_rng():
        results = compute(**inputs)
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    for tensor in (*results.values(), *gradients.values()):
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)  # recording does no work

    def again() -> None:
        log.append("replayed")
        for parameter in gradients:
            parameter.grad = None
        for name, value in compute(**inputs).items():
            results[name].copy_(value)
        for parameter, gradient in gradients.items():
            gradient.copy_(parameter.grad)
            parameter.grad = None

    return again, results
