"""One process or many, decided by how it was started."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from typing import TypeVar

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medsynth.errors import MedsynthError

Number = TypeVar("Number", float, Tensor)


def start() -> None:
    """Join the other processes if `torchrun` started this one; nothing to do otherwise.

    All ranks ask for the world size here: ignite's first look at the group is a collective, and handlers that run on
    rank 0 alone would wait in it for the others for ever.

    `torchrun` uses one store of addresses for all its restarts, so processes would connect to those that have ended
    (PyTorch issue 135712). On one machine each restart has its own names there; several machines count their restarts
    separately, and need `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, with which `torchrun` makes a new store each time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        store, rank, world_size = next(dist.rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(world_size):
            store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        if not cuda:
            keep_to_own_cores(int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world_size)
        atexit.register(leave)
    idist.get_world_size()


def leave() -> None:
    """Leave the process group when this process ends, unless by an error, after which others may never answer.

    Otherwise the group's threads outlive the interpreter, and end a successful process with `SIGABRT`.
    """
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def keep_to_own_cores(local_rank: int, processes: int) -> None:
    """Leave this process its share of the machine's cores; nothing to do where there are fewer cores than processes.

    Otherwise processes that wake each other after every step are often put on one core, and all wait for those.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if processes <= len(cores):
            os.sched_setaffinity(0, np.array_split(cores, processes)[local_rank].tolist())


def all_reduce(value: Number, op: str = "SUM") -> Number:
    """The sum (or `MAX`, `MIN`) of all processes' values, as ignite's.

    Raises:
        MedsynthError: one of the others has ended.
    """
    try:
        return idist.all_reduce(value, op)
    except RuntimeError as error:  # what every backend raises
        raise MedsynthError(
            "another process of this run has ended, and its last lines say why; the same command continues from the "
            "last checkpoint"
        ) from error


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of all processes' tensors, element by element.

    Raises:
        MedsynthError: one of the others has ended.
    """
    return all_reduce(value) / idist.get_world_size()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes; nothing to do for one process.

    A generative step runs parts of its networks in turns, which `DistributedDataParallel` cannot follow.
    """
    if idist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = mean_of_all(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def same_everywhere(network: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    if idist.get_world_size() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def require_alike(network: nn.Module, name: str) -> None:
    """Make sure that all processes have the same parameters; nothing to do for one process.

    Raises:
        MedsynthError: they differ.
    """
    if idist.get_world_size() == 1 or next(network.parameters(), None) is None:
        return
    sums = torch.stack([parameter.detach().double().sum() for parameter in network.parameters()])
    if not torch.equal(all_reduce(sums.clone(), "MIN"), all_reduce(sums.clone(), "MAX")):
        raise MedsynthError(
            f"'{name}' is no longer the same on all processes: the last checkpoint is unchanged; give the same command "
            "again, with one process if it happens again"
        )


def share_of_draws(seed: int, iteration: int, count: int, columns: int) -> Tensor:
    """Random numbers for the images of this process: all processes together get what a single one would.

    Args:
        seed, iteration: which numbers.
        count: images of this process.
        columns: numbers an image.

    Returns: (count, columns) float64, evenly from [0, 1), on the CPU.
    """
    first = count * idist.get_rank()
    drawn = np.random.default_rng([seed, iteration]).random((count * idist.get_world_size(), columns))
    return torch.from_numpy(drawn[first : first + count])
