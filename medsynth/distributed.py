"""One process or many, decided by how it was started."""

from __future__ import annotations

import os

import ignite.distributed as idist
import torch
import torch.distributed as dist


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
