"""VQ-VAE: images a second of a training step, beside MONAI's own with the same layers and pythae's where installed."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.networks.nets import VQVAE
from torch import Tensor

from benchmarks.train import Measurement, RandomSlices, Step, in_new_process, measure
from medsynth.data.datasets.loader import SliceLoader

CONFIG = Path(__file__).parents[2] / "bundles" / "vqvae" / "train.json"


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `vqvae`."""
    parser = parsers.add_parser("vqvae", help="speed of a VQ-VAE's training step, beside MONAI's with the same layers")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--channels", type=int, nargs="+", help="of ours and MONAI's; default: the bundle's")
    parser.add_argument("--residual_layers", type=int, help="likewise")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure each step in a process of its own, and print the table."""
    given = {name: getattr(options, name) for name in ("channels", "residual_layers")}
    layers = {name: value for name, value in given.items() if value is not None}
    steps: dict[str, Callable[..., Step]] = {
        "ours": partial(bundle_step, layers=layers, amp=True),
        "ours, float32": partial(bundle_step, layers=layers, amp=False),
        "MONAI's": partial(monai_step, layers=layers),
    }
    if importlib.util.find_spec("pythae") is not None:
        steps["pythae's"] = pythae_step
    print(f"{options.image_size} pixels, batch {options.batch_size}, {options.threads} thread(s)")
    print(f"{'step':>14} {'precision':>10} {'M params':>9} {'images/s':>9} {'/CPU-s':>8} {'above idle':>11}")
    for name, step in steps.items():
        arguments = (options.image_size, options.batch_size, 0, options.threads, options.seconds)
        found: Measurement = in_new_process(measure, step, *arguments)
        print(
            f"{name:>14} {found.precision:>10} {found.parameters / 1e6:>9.2f} {found.per_second:>9.1f} "
            f"{found.per_cpu_second:>8.1f} {found.above_idle_mib:>7.0f} MiB"
        )


def bundle_step(size: int, batch_size: int, _: int, layers: dict[str, Any], amp: bool) -> Step:
    """The step of the trainer that the bundle's config builds, on random images; the codebook learns too."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update({"image_size": size, "amp": amp, "device": "cpu", "codebook#warmup": 0} | layers)
    parser["train"]["dataloader"] = SliceLoader(RandomSlices(size), batch_size)
    parser["train"]["handlers"] = []
    parser["train"]["schedule"] = SimpleNamespace(second_stage=lambda engine: False, attach=lambda engine: None)
    trainer = parser.get_parsed_content("train#trainer")
    trainer.begin()
    facts = trainer.data_loader.dataset.facts(np.arange(batch_size))

    def step(images: Tensor) -> None:
        trainer.state.iteration += 1
        trainer._iteration(trainer, {"image": images, **facts})

    return step, [trainer.network], "bfloat16" if trainer.bfloat16 else "float32"


def monai_step(size: int, batch_size: int, _: int, layers: dict[str, Any]) -> Step:
    """MONAI's `VQVAE` with the layers and the codebook of the bundle, trained as its tutorial does."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update({"image_size": size} | layers)
    ours = parser.get_parsed_content("network_def")
    network = VQVAE(
        2,
        1,
        1,
        channels=ours.channels,
        num_res_layers=ours.num_res_layers,
        num_res_channels=ours.num_res_channels,
        downsample_parameters=(2, 4, 1, 1),
        upsample_parameters=(2, 4, 1, 1, 0),
        num_embeddings=ours.num_codes,
        embedding_dim=ours.code_features,
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-4)

    def step(images: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        reconstruction, quantization = network(images)
        (F.l1_loss(reconstruction, images) + quantization).backward()
        optimizer.step()

    return step, [network], "float32"


def pythae_step(size: int, batch_size: int, _: int) -> Step:
    """pythae's VQVAE with the residual networks that it ships for colour pictures of 64 pixels."""
    from pythae.models import VQVAE as PythaeVqVae
    from pythae.models import VQVAEConfig
    from pythae.models.nn.benchmarks.celeba import Decoder_ResNet_VQVAE_CELEBA, Encoder_ResNet_VQVAE_CELEBA

    config = VQVAEConfig(input_dim=(3, size, size), latent_dim=16, num_embeddings=256, use_ema=True, decay=0.99)
    network = PythaeVqVae(config, Encoder_ResNet_VQVAE_CELEBA(config), Decoder_ResNet_VQVAE_CELEBA(config)).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step(images: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        network({"data": (images.expand(-1, 3, -1, -1) + 1) / 2}).loss.backward()
        optimizer.step()

    return step, [network], "float32"
