"""A GPU for machines that have none: tensors lie in main memory, but tell and refuse what those on a GPU do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from medsynth import storage

GPU = torch.device("cuda:0")
IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__itruediv__")
ABSENT = {
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "is_current_stream_capturing": False,
    "mem_get_info": (2**33, 2**33),
    "get_rng_state": torch.zeros(16, dtype=torch.uint8),
    "get_rng_state_all": [torch.zeros(16, dtype=torch.uint8)],
    "set_rng_state": None,
    "set_rng_state_all": None,
    "manual_seed_all": None,
    "synchronize": None,
    "empty_cache": None,
}
"""What `torch.cuda` answers."""


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class ParameterOnGpu(OnGpu, nn.Parameter):
    """A parameter that does."""


class Double(TorchFunctionMode):
    """All calls of PyTorch go through `call`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


def call(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`func` on the CPU; its results are on the GPU's double if that is asked for, or if its arguments are.

    Raises:
        RuntimeError: for arguments of both devices, where PyTorch takes only those of one.
        TypeError: for what is to become an array without being fetched.
    """
    if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
        return moved(func, args, kwargs)
    if func is torch.as_tensor and isinstance(args[0], Tensor):
        asked = dict(zip(("dtype", "device"), args[1:], strict=False)) | kwargs
        return moved(Tensor.to, args[:1], asked) if asked else args[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = kwargs.get("device")
    if not is_gpu(device) and not any(map(is_gpu, tensors)):
        return func(*args, **kwargs)
    if any(map(is_gpu, tensors)):
        if func in DIFFERENT:
            return DIFFERENT[func](*args)
        refuse_mixture(func, args, tensors)
    if isinstance(kwargs.get("generator"), torch.Generator):  # there is none on the double
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs | ({"device": "cpu"} if is_gpu(device) else {}))
    fetched = device is not None and not is_gpu(device)
    if fetched or (func is torch.tensor and device is None) or (changes_first(func) and not is_gpu(args[0])):
        return result
    return tree_map(lambda leaf: tagged(leaf) if isinstance(leaf, Tensor) else leaf, result)


def refuse_mixture(func: Callable, args: tuple, tensors: Sequence[Tensor]) -> None:
    """Numbers in main memory go with tensors there, and so do indices; other tensors don't."""
    alone = []  # what even numbers may not be mixed in with
    if func in (Tensor.copy_, Tensor.fill_):
        return
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        by_tensors = any(isinstance(part, (Tensor, np.ndarray, list)) for part in index)
        if not by_tensors or (func is Tensor.__getitem__ and is_gpu(args[0])):
            return  # values at integers and slices are copied
        tensors = [value for value in args[2:] if isinstance(value, Tensor)] if is_gpu(args[0]) else tensors
    elif changes_first(func) and isinstance(args[0], Tensor) and not is_gpu(args[0]):
        alone = tensors
    else:
        lists = [value for value in args if isinstance(value, (list, tuple))]
        alone = [leaf for value in lists if any(map(is_gpu, value)) for leaf in value if isinstance(leaf, Tensor)]
    if any(not is_gpu(tensor) and tensor.dim() for tensor in tensors) or not all(map(is_gpu, alone)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some on cuda:0, some on cpu")


def changes_first(func: Callable) -> bool:
    """Whether it works in place."""
    name = func.__name__
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE


def refuse_array(tensor: Tensor, *_: Any) -> None:
    """NumPy reads main memory alone."""
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")


def moved(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """What `to`, `cuda` and `cpu` make of a tensor."""
    tensor, *others = args
    asked = [*others, *kwargs.values()]
    was_there = is_gpu(tensor)
    goes_there = func is Tensor.cuda or any(map(is_gpu, asked))
    if not (was_there or goes_there):
        return func(*args, **kwargs)
    stays_there = was_there and func is not Tensor.cpu and not any(map(is_cpu, asked))
    with torch._C.DisableTorchFunctionSubclass():
        result = tensor
        if func is Tensor.to:
            result = func(tensor, *map(on_cpu, others), **{name: on_cpu(value) for name, value in kwargs.items()})
        if result is tensor and was_there != (goes_there or stays_there):
            result = tensor.clone()
    return tagged(result) if goes_there or stays_there else result


def copied(tensor: Tensor, memo: dict[int, Tensor]) -> Tensor:
    """What `deepcopy` makes of it."""
    with torch._C.DisableTorchFunctionSubclass():
        result = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    memo[id(tensor)] = tagged(result, type(tensor))
    return result


def on_cpu(value: Any) -> Any:
    """A device or a tensor that tells one, without the GPU."""
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return value.detach()
    return torch.device("cpu") if is_gpu(value) else value


def is_gpu(value: Any) -> bool:
    """Whether it names the GPU, or lies there."""
    if isinstance(value, (str, torch.device)):
        return str(value).startswith("cuda")
    return isinstance(value, OnGpu)


def is_cpu(value: Any) -> bool:
    """Whether it names the CPU, or lies there."""
    if isinstance(value, (str, torch.device)):
        return str(value).startswith("cpu")
    return isinstance(value, Tensor) and not isinstance(value, OnGpu)


def tagged(tensor: Tensor, kind: type = OnGpu) -> Tensor:
    """The tensor itself, on the GPU's double from now on."""
    if not isinstance(tensor, OnGpu):
        tensor.__class__ = ParameterOnGpu if isinstance(tensor, nn.Parameter) else kind
    return tensor


DIFFERENT = {
    Tensor.device.__get__: lambda _: GPU,
    Tensor.is_cuda.__get__: lambda _: True,
    Tensor.is_cpu.__get__: lambda _: False,
    Tensor.numpy: refuse_array,
    Tensor.__array__: refuse_array,
    Tensor.__deepcopy__: copied,
    Tensor.__reduce_ex__: lambda tensor, protocol: on_cpu(tensor).__reduce_ex__(protocol),
}
"""What tensors on a GPU do in another way."""


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, `cuda` is a device."""
    move, autocast = nn.Module.to, torch.autocast

    def module_to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        asked, were_there = [*args, *kwargs.values()], False
        for tensor in [*module.parameters(), *module.buffers()]:
            were_there |= is_gpu(tensor)
            tensor.__class__ = nn.Parameter if isinstance(tensor, nn.Parameter) else Tensor
        move(module, *map(on_cpu, args), **{name: on_cpu(value) for name, value in kwargs.items()})
        if any(map(is_gpu, asked)) or (were_there and not any(map(is_cpu, asked))):
            for tensor in [*module.parameters(), *module.buffers()]:
                tagged(tensor)
        return module

    def autocast_there(device_type: str, *args: Any, **kwargs: Any) -> autocast:
        return autocast("cpu", *args, **kwargs | ({} if device_type == "cuda" else {"enabled": False}))

    with ExitStack() as stack:
        for name, answer in ABSENT.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(mock.patch.object(nn.Module, "to", module_to))
        stack.enter_context(mock.patch.object(nn.Module, "cuda", lambda module, *_: module_to(module, "cuda")))
        stack.enter_context(mock.patch.object(nn.Module, "cpu", lambda module: module_to(module, "cpu")))
        stack.enter_context(mock.patch.object(storage, "PLAIN", (*storage.PLAIN, OnGpu)))
        stack.enter_context(mock.patch.object(torch, "autocast", autocast_there))
        for name in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):
            if hasattr(torch.optim.Optimizer, name):  # by PyTorch's version
                stack.enter_context(mock.patch.object(torch.optim.Optimizer, name))
        stack.enter_context(Double())
        yield
