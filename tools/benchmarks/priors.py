"""Priors over codes: images a CPU-second, drawn and decoded, beside MONAI's transformer drawn as MONAI does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils import OrderingType
from monai.utils.ordering import Ordering
from torch import Tensor

from benchmarks.metrics import cpu_seconds
from medsynth.models.vqvae.priors.base import CodePrior
from medsynth.models.vqvae.priors.flow import CodeFlow
from medsynth.models.vqvae.priors.gan import CodeGan
from medsynth.models.vqvae.priors.transformer import CodeTransformer

BUNDLE = Path(__file__).parents[2] / "bundles" / "vqvae"
MONAI_IMAGES = 2  # drawn together; more take as long each


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `priors`."""
    parser = parsers.add_parser("priors", help="speed of drawing images from priors over codes, decoding included")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--images", type=int, default=64, help="drawn together")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the bundle's three priors and MONAI's inferer on the transformer's own size; print the table."""
    torch.set_num_threads(options.threads)
    stage_one = {"image_size": options.image_size} | defaults(
        "train", "channels", "residual_layers", "num_codes", "code_features", "cosine"
    )
    gan_sizes = defaults("train_prior", "channels", "latent_features")
    gan = CodeGan(stage_one, **gan_sizes, num_classes=0, use_position=True).eval()
    sizes = defaults("train_transformer", "features", "layers", "heads")
    transformer = CodeTransformer(stage_one, **sizes, dropout=0.0, num_classes=0, use_position=True).eval()
    flow = CodeFlow(
        stage_one, **defaults("train_flow", "prior_channels", "dropout"), num_classes=0, use_position=True
    ).eval()
    count = options.images
    rates = {
        "GAN": images_per_cpu_second(lambda: gan.sample(count, seed=0), count),
        "flow": images_per_cpu_second(lambda: flow.sample(count, seed=0), count),
        "transformer": images_per_cpu_second(lambda: transformer.sample(count, seed=0), count),
        "transformer, MONAI's inferer": images_per_cpu_second(monai_sampling(gan, sizes), MONAI_IMAGES, turns=1),
    }
    print(f"{options.image_size} pixels, {gan.grid**2} codes an image, {options.threads} thread(s)")
    print(f"{'prior':>30} {'images/CPU-s':>13}")
    for name, rate in rates.items():
        print(f"{name:>30} {rate:>13.2f}")


def defaults(config: str, *names: str) -> dict[str, Any]:
    """Values of a bundle's configuration."""
    values = json.loads((BUNDLE / f"{config}.json").read_text())
    return {name: values[name] for name in names}


def monai_sampling(prior: CodePrior, sizes: dict[str, int]) -> Callable[[], Tensor]:
    """MONAI's way to draw from its transformer of the sizes given, and to decode."""
    stage_one, side = prior.stage_one, prior.grid
    network = DecoderOnlyTransformer(
        num_tokens=stage_one.num_codes + 1,
        max_seq_len=side**2,
        attn_layers_dim=sizes["features"],
        attn_layers_depth=sizes["layers"],
        attn_layers_heads=sizes["heads"],
    ).eval()
    first = torch.full((MONAI_IMAGES, 1), stage_one.num_codes)
    ordering = Ordering(OrderingType.RASTER_SCAN.value, 2, (1, side, side))
    inferer = VQVAETransformerInferer()
    return lambda: inferer.sample((side, side), first, stage_one, network, ordering, verbose=False)


def images_per_cpu_second(draw: Callable[[], object], count: int, turns: int = 3) -> float:
    """Of `count` images drawn together; the best turn counts."""
    with torch.inference_mode():
        return count / cpu_seconds(draw, turns)
