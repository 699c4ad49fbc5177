"""Volumes: CPU-seconds to draw one and of a training step, beside MONAI's diffusion U-Net over the same bands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from benchmarks.metrics import cpu_seconds
from medsynth.models.flow.network import LatentFlow
from medsynth.models.volumes.network import COARSE_BANDS, VolumeFlow
from medsynth.nn.precision import autocast

TRAIN = Path(__file__).parents[2] / "bundles" / "volumes" / "train.json"
CPU = torch.device("cpu")
VOLUMES = 2  # of a training step
GROUPS = 32  # of MONAI's normalization


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `volumes`."""
    parser = parsers.add_parser("volumes", help="speed of drawing volumes and of a training step")
    parser.add_argument("--size", type=int, nargs=3, default=[40, 56, 48], help="voxels along each axis")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the bundle's network, and its coarsest level beside MONAI's of as many features; print the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keys = json.loads(TRAIN.read_text())
    network = VolumeFlow(options.size, keys["channels"], keys["detail_channels"], keys["dropout"], 0, [])
    seconds = cpu_seconds(lambda: network.eval().sample(1, seed=0))
    size = " x ".join(map(str, options.size))
    print(
        f"{size} voxels, {len(network.grids)} levels, {options.threads} thread(s): {seconds:.2f} CPU-seconds a volume"
    )
    coarsest = network.levels[0].train()
    print(f"{'coarsest level':>20} {'M params':>9} {'CPU-s a step':>13}")
    for name, flow, predict in (
        ("this", coarsest, ours(coarsest)),
        ("MONAI's", peer := monai_unet(keys["channels"]), lambda maps, time: peer(maps, time)),
    ):
        parameters = sum(weight.numel() for weight in flow.parameters()) / 1e6
        print(f"{name:>20} {parameters:>9.2f} {cpu_seconds(training_step(flow, predict, network.grids[0])):>13.3f}")


def ours(flow: LatentFlow) -> Callable[[Tensor, Tensor], Tensor]:
    """Maps and times -> what the network says, under no condition."""
    return lambda maps, time: flow(maps, time, flow.embed(None, None, None, maps))


def monai_unet(channels: list[int]) -> DiffusionModelUNet:
    """MONAI's, with as many features at both resolutions, and attention at the coarse one."""
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=COARSE_BANDS,
        out_channels=COARSE_BANDS,
        channels=channels,
        attention_levels=(False, True),
        num_res_blocks=2,
        num_head_channels=32,
        norm_num_groups=GROUPS,
    )


def training_step(
    network: nn.Module, predict: Callable[[Tensor, Tensor], Tensor], places: tuple[int, ...]
) -> Callable[[], None]:
    """One, in the precision that training takes on this CPU."""
    maps, time = torch.randn(VOLUMES, COARSE_BANDS, *places), torch.rand(VOLUMES)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        with autocast(CPU):
            found = predict(maps, time)
        optimizer.zero_grad()
        (found.float() - maps).square().mean().backward()
        optimizer.step()

    return step
