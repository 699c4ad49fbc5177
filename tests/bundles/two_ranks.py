"""Two processes of one run, as `torchrun` starts them, but without the imports: most of the time of a short run."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import monai.bundle
import torch

CONTEXT = multiprocessing.get_context("forkserver")  # what it starts has no threads of this process
CONTEXT.set_forkserver_preload(
    [
        __name__,
        "medsynth.models.vaegan.trainer",
        "medsynth.evaluation.metrics.distribution.image_set",
        "ignite.handlers",
    ]
)


def run_on_two_ranks(workflow: str, config: Path, messages: Path, **overrides: object) -> list[int]:
    """The exit status of each; what they say goes to the file `messages`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        CONTEXT.Process(target=_run, args=(rank, port, messages, workflow, config, overrides)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _run(rank: int, port: int, messages: Path, workflow: str, config: Path, overrides: dict[str, object]) -> None:
    told = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(told, stream)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)  # as `torchrun` does
    monai.bundle.run(workflow, config_file=str(config), **overrides)
