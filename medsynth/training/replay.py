"""Training steps as CUDA graphs: all kernels of a step are launched at once instead of one by one from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError

PLAIN_CALLS = 3  # in which libraries choose their algorithms and allocate memory, which a recording must not do
Named = dict[str, "Tensor | Named"]
"""Tensors by name, or groups of them."""
Compute = Callable[..., Named]
"""Takes tensors, or groups of them, by name, leaves gradients in parameters, and returns tensors that need none."""


class RecordingMemory:
    """The memory pool that the recordings of one trainer share; only one runs at a time."""

    @cached_property
    def pool(self) -> object:
        """PyTorch's name for it."""
        return torch.cuda.graph_pool_handle()


class Replayed:
    """Calls `compute`; if it may be recorded, the first few times as it is, and then as a CUDA graph.

    A small network's step is thousands of small kernels, and takes as long as Python needs to launch them. A recording
    runs them without Python.

    What is recorded must read no value (`item`, `tolist`, branches on tensors), make no tensor from lists, draw random
    numbers on the GPU only, and get tensors of the same shapes each time; other values stay those of the recording.
    Results are copied; gradients are valid until the next call.

    Args:
        compute: the function.
        parameters: those that it computes gradients of; earlier gradients are dropped.
        memory: of recordings, which need a GPU; None: nothing is recorded.
    """

    def __init__(self, compute: Compute, parameters: Iterable[nn.Parameter], memory: RecordingMemory | None) -> None:
        self.compute, self.parameters, self.memory = compute, list(parameters), memory
        self._plain_calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, **inputs: Tensor | Named) -> Named:
        """The results of `compute`.

        Raises:
            MedsynthError: it cannot be recorded.
        """
        if self.memory is None or self._plain_calls < PLAIN_CALLS:
            self._plain_calls += 1
            self._drop_gradients()
            return self.compute(**inputs)
        if self._replay is None:
            self._inputs = copied(inputs)
            self._drop_gradients()
            self._replay, self._results = recorded(self.compute, self._inputs, self.memory)
            self._gradients = [parameter.grad for parameter in self.parameters]
        fill(self._inputs, inputs)
        self._replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return copied(self._results)

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def copied(tensors: Named) -> Named:
    """Copies of tensors under the same names."""
    return {name: copied(value) if isinstance(value, dict) else value.clone() for name, value in tensors.items()}


def fill(tensors: Named, values: Named) -> None:
    """Copy values into tensors of the same names."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(tensors[name], value)
        else:
            tensors[name].copy_(value)


def recorded(compute: Compute, inputs: Named, memory: RecordingMemory) -> tuple[Callable[[], None], Named]:
    """Record `compute` as a CUDA graph, without running it.

    Returns: a function that runs it on the present content of `inputs`, and the tensors that hold its results.

    Raises:
        MedsynthError: `compute` cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=memory.pool, capture_error_mode="thread_local"):
            results = compute(**inputs)
    except RuntimeError as error:
        raise MedsynthError(
            f"a training step cannot be recorded as a CUDA graph here ({str(error).splitlines()[0]}): give the same "
            "command again with --cuda_graphs false, which is slower"
        ) from error
    return graph.replay, results
