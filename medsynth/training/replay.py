"""Training steps as CUDA graphs: a GPU gets all the work of a step at once, instead of piece by piece from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError

PLAIN_CALLS = 3  # in which libraries choose their algorithms and take their memory, which no recording allows
Named = dict[str, "Tensor | Named"]
"""Tensors by name, or groups of them."""
Compute = Callable[..., Named]
"""Takes tensors, or groups of them, by name, leaves gradients in parameters, and returns tensors that need none."""


class RecordingMemory:
    """Where the recordings of one trainer take their memory: one at a time runs, and none needs another's rest."""

    @cached_property
    def pool(self) -> object:
        """PyTorch's name for it."""
        return torch.cuda.graph_pool_handle()


class Replayed:
    """Calls `compute`; if it may be recorded, the first few times plainly, and then as a CUDA graph.

    A small network's step is thousands of small kernels, and takes as long as Python needs to name them. Recorded once,
    they run one after the other without it.

    What is recorded must look at no value (`item`, `tolist`, branches on tensors), make no tensor of lists, draw random
    numbers on the GPU alone, and get tensors of the same shapes each time; other values stay those of the recording.
    What it returns is copied; gradients are good until the next call.

    Args:
        compute: the work.
        parameters: those that it leaves gradients in; earlier ones are let go of.
        memory: of recordings, which take a GPU; None: all calls are plain.
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
            self._let_go()
            return self.compute(**inputs)
        if self._replay is None:
            self._inputs = copied(inputs)
            self._let_go()
            self._replay, self._results = recorded(self.compute, self._inputs, self.memory)
            self._gradients = [parameter.grad for parameter in self.parameters]
        fill(self._inputs, inputs)
        self._replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return copied(self._results)

    def _let_go(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def copied(tensors: Named) -> Named:
    """Copies, by the same names."""
    return {name: copied(value) if isinstance(value, dict) else value.clone() for name, value in tensors.items()}


def fill(tensors: Named, values: Named) -> None:
    """Copy values into tensors of the same names."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(tensors[name], value)
        else:
            tensors[name].copy_(value)


def recorded(compute: Compute, inputs: Named, memory: RecordingMemory) -> tuple[Callable[[], None], Named]:
    """A CUDA graph of `compute`, which has not run yet.

    Returns: what runs it, with whatever `inputs` hold by then, and the tensors that its results will be in.

    Raises:
        MedsynthError: it does what no CUDA graph can hold.
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
