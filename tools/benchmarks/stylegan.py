"""StyleGAN: images a second of training, at each resolution and over the growing schedule, and of drawing."""

from __future__ import annotations

import argparse
import gc
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from benchmarks.train import RandomSlices, Step, closest_width, in_new_process, measure, rate
from medsynth.data.datasets.loader import SliceLoader
from medsynth.models.stylegan.growth_schedule import Phase
from medsynth.models.stylegan.trainer import StyleGanTrainer

CONFIG = Path(__file__).parents[2] / "bundles" / "stylegan" / "train.json"
PARAMETERS = 4_000_000  # of both networks, as nearly as the widths allow
PATH_LENGTH = 2.0  # its weight: StyleGAN2 has it, so it counts here
WARM_UP_STEPS = 2


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `stylegan`."""
    parser = parsers.add_parser("stylegan", help="images a second of StyleGAN's training and drawing, and its memory")
    parser.add_argument("--image_size", type=int, nargs="+", default=[64, 128], choices=[64, 128, 256])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--parameters", type=int, default=PARAMETERS, help="of generator and discriminator together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure each step in a process of its own, and print the tables."""
    print("lazy R1 and path length included")
    columns = ("pixels", "precision", "M params", "images/s", "/CPU-s", "above idle", "drawn/s", "drawn/CPU-s")
    print(" ".join(f"{name:>12}" for name in columns))
    for size in options.image_size:
        for amp in (True, False):
            common = (size, options.batch_size, options.parameters, options.threads, options.seconds)
            found = in_new_process(measure, partial(bundle_step, amp=amp), *common)
            drawn = in_new_process(drawing, *common)
            print(
                f"{size:>12} {found.precision:>12} {found.parameters / 1e6:>12.2f} {found.per_second:>12.1f} "
                f"{found.per_cpu_second:>12.1f} {found.above_idle_mib:>12.0f} {drawn[0]:>12.1f} {drawn[1]:>12.1f}"
            )
    print(f"\nthe growing schedule to {options.image_size[0]} pixels, as configured, with that many parameters")
    print(" ".join(f"{name:>12}" for name in ("pixels", "alpha", "batch", "kimg", "images/s", "/CPU-s")))
    per_second, per_cpu_second = in_new_process(
        growing, options.image_size[0], options.parameters, options.threads, options.seconds
    )
    print(f"over all of it {per_second:.1f} images/s, {per_cpu_second:.1f} a CPU-second")


def bundle_step(size: int, batch_size: int, parameters: int, amp: bool) -> Step:
    """The step of the trainer that the bundle's config builds, at its last resolution, on random images."""
    trainer = closest_trainer(size, batch_size, parameters, amp)
    last = Phase(size, 1.0, batch_size)
    trainer.begin()
    trainer.growing.now = lambda: last
    facts = trainer.data_loader.dataset.facts(np.arange(batch_size))

    def step(images: Tensor) -> None:
        trainer._iteration(trainer, {"image": images, **facts})

    return step, networks_of(trainer), "bfloat16" if trainer.bfloat16 else "float32"


def drawing(size: int, batch_size: int, parameters: int, threads: int, seconds: float) -> tuple[float, float]:
    """Images drawn a second, and a second of one CPU."""
    torch.set_num_threads(threads)
    network = closest_trainer(size, batch_size, parameters, amp=True).network.eval()
    latents = torch.randn(batch_size, network.latent_features)
    with torch.inference_mode():
        network(latents)
        return rate(network, latents, seconds / 3)


def growing(size: int, parameters: int, threads: int, seconds: float) -> tuple[float, float]:
    """Images a second, and a second of one CPU, over all phases until the last resolution has faded in."""
    torch.set_num_threads(threads)
    trainer = closest_trainer(size, 64, parameters, amp=True, path_length=0.0)
    trainer.begin()
    plan, total, clock, cpu = trainer.growing, 0.0, 0.0, 0.0
    for level, resolution in enumerate(plan.resolutions):
        for alpha, images in ((0.5, plan.fades[level]), (1.0, plan.stables[level])):
            if not images:
                continue
            phase = Phase(resolution, alpha, plan.batch_sizes[level])
            found = phase_rates(trainer, phase, seconds / 3)
            print(
                f"{resolution:>12} {alpha:>12} {phase.batch_size:>12} {images / 1000:>12.1f} {found[0]:>12.1f} "
                f"{found[1]:>12.1f}",
                flush=True,
            )
            total, clock, cpu = total + images, clock + images / found[0], cpu + images / found[1]
    return total / clock, total / cpu


def phase_rates(trainer: StyleGanTrainer, phase: Phase, seconds: float) -> tuple[float, float]:
    """Images a second, and a second of one CPU, of training in one phase."""
    trainer.growing.now = lambda: phase
    size = trainer.network.image_size
    facts = trainer.data_loader.dataset.facts(np.arange(trainer.data_loader.batch_size))
    images = torch.rand(trainer.data_loader.batch_size, 1, size, size) * 2 - 1

    def step(images: Tensor) -> None:
        trainer._iteration(trainer, {"image": images, **facts})

    for _ in range(WARM_UP_STEPS):
        step(images)
    return rate(step, images, seconds)


def closest_trainer(
    size: int, batch_size: int, parameters: int, amp: bool, path_length: float = PATH_LENGTH
) -> StyleGanTrainer:
    """The bundle's trainer with about so many parameters."""
    build = partial(trainer_of, size, batch_size, amp=amp, path_length=path_length)
    channels = closest_width(lambda width: networks_of(build(width)), range(8, 129, 8), parameters)
    gc.collect()
    return build(channels)


def networks_of(trainer: StyleGanTrainer) -> list[nn.Module]:
    """All that it trains."""
    return [trainer.network, trainer.discriminator]


def trainer_of(size: int, batch_size: int, channels: int, amp: bool, path_length: float) -> StyleGanTrainer:
    """The trainer of the bundle's config on random slices, without handlers."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update({"image_size": size, "channels": channels, "amp": amp, "device": "cpu", "classes": ["AD", "NC"]})
    parser["loss"]["path_length"] = path_length
    parser["train"]["dataloader"] = SliceLoader(LabelledSlices(size), batch_size)
    parser["train"]["handlers"] = []
    return parser.get_parsed_content("train#trainer")


class LabelledSlices(RandomSlices):
    """Random slices of which all classes and positions are known."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        facts = self.facts(np.arange(len(self)))
        self.labels, self.positions = facts["label"].numpy(), facts["position"].numpy()
