"""One process or many, decided by how it was started."""

from __future__ import annotations

import os
from collections.abc import Iterable

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> None:
    """Join the other processes if `torchrun` started this one; nothing to do otherwise.

    All ranks ask for the world size here: ignite's first look at the group is a collective, and handlers that work on
    rank 0 alone would wait for the others in it for ever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo")
    idist.get_world_size()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes; nothing to do for one process.

    A generative step runs parts of its networks in turns, which `DistributedDataParallel` cannot follow.
    """
    if idist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = idist.all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients])) / idist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def same_everywhere(network: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    if idist.get_world_size() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)
