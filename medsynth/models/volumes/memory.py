"""How much memory a training on volumes takes, told before it begins."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing
from medsynth.errors import MedsynthError
from medsynth.models.volumes.augmentation import NUMBERS
from medsynth.models.volumes.network import VolumeFlow

COPIES = 5  # of the weights: they themselves, gradients, two averages of the optimizer, the moving average
STORED, MOVED = 3, 12  # arrays of the stored and of the grid's size while a volume is moved
MAPS = 3  # arrays of the grid's size for each class of label maps
NUMBER = 4  # bytes
GIGABYTE = 1e9

log = logging.getLogger(__name__)


def check_memory(
    network: VolumeFlow, preprocessing: VolumePreprocessing, batch_size: int, device: torch.device
) -> None:
    """Log what a step takes, and refuse what the device cannot hold.

    Raises:
        MedsynthError: with the keys that make it fit.
    """
    weights = COPIES * NUMBER * sum(weight.numel() for weight in network.parameters())
    grid = math.prod(preprocessing.size)
    stored = math.prod(
        preprocessing.finer * (length + 2 * edge)
        for length, edge in zip(preprocessing.size, preprocessing.margins, strict=True)
    )
    volume = NUMBER * (STORED * stored + MOVED * grid + batch_size * stored)
    if network.segmentation_classes:
        volume += NUMBER * (batch_size * stored + MAPS * network.segmentation_classes * grid)
    crops = batch_size * saved_bytes(network, device)
    needed, free = weights + volume + crops, free_bytes(device)
    size = " x ".join(map(str, preprocessing.size))
    log.info("a step with %d volumes of %s takes about %.1f GB of memory", batch_size, size, needed / GIGABYTE)
    if free is not None and needed > free:
        key = "batch_size" if crops > volume and batch_size > 1 else "size"
        raise MedsynthError(
            f"{batch_size} volumes of {size} need about {needed / GIGABYTE:.1f} GB of memory, and {device} has "
            f"{free / GIGABYTE:.1f} GB free: lower {key}"
        )


def saved_bytes(network: VolumeFlow, device: torch.device) -> int:
    """What one volume leaves for the backward pass, in all levels together."""
    counted: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        counted[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    side = network.grids[0]
    numbers = [(level.shape[0], level.given_channels) for level in network.levels]
    pyramid = [tuple(torch.zeros(1, count, *side, device=device) for count in counts) for counts in numbers]
    if not network.levels[0].given_channels:
        pyramid[0] = (pyramid[0][0], None)
    unknown = (
        torch.full((1,), -1),
        torch.full((1,), torch.nan),
        torch.full((1, len(network.conditions.covariates)), 0.0),
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), torch.random.fork_rng(devices=[]):
        network.losses([pyramid], torch.zeros(1, NUMBERS, device=device), *(fact.to(device) for fact in unknown))
    return sum(size for pointer, size in counted.items() if pointer not in own)


def free_bytes(device: torch.device) -> int | None:
    """Of a GPU or of the machine; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
