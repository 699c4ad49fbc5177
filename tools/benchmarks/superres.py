"""Super-resolution: fine megapixels a CPU-second, CPU-seconds of a training step and of a volume of thick slices."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from benchmarks.metrics import cpu_seconds
from medsynth.models.superres.inference import SliceUpscaler
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.through_plane import through
from medsynth.models.superres.trainer import MixedPrecisionInferer
from medsynth.nn.precision import use_bfloat16

SHARED = {"degradation": "kspace", "channels": 64, "growth": 32, "neighbours": 0, "consistent": True}
ORIGINAL = SHARED | {"scale": 4, "trunk": "dense", "blocks": 23, "residual_scale": 0.2, "upsampling": "nearest"}
SMALL = SHARED | {"scale": 2, "trunk": "residual", "blocks": 10, "residual_scale": 1.0, "upsampling": "subpixel"}
THICK = SMALL | {"degradation": "box", "scale": 5.0}  # slices five times as far apart as their pixels
TRAINED = (4, 44)  # images, and pixels a side that the network computes on, of a training step
SLICES = 12  # of a volume
CPU = torch.device("cpu")


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `superres`."""
    parser = parsers.add_parser("superres", help="speed of super-resolution networks and of a training step")
    parser.add_argument("--size", type=int, default=64, help="coarse pixels a side")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the original's size and the bundle's, and BasicSR's original where it is installed; print the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    coarse = torch.rand(1, 1, options.size, options.size) * 2 - 1
    networks = {"original": RRDBNet(**ORIGINAL), "bundle's": RRDBNet(**SMALL)}
    thick = RRDBNet(**THICK).to(memory_format=torch.channels_last).eval()
    print(f"{options.size} x {options.size} coarse pixels, {options.threads} thread(s)")
    print(f"{'network':>10} {'scale':>6} {'M params':>9} {'precision':>10} {'fine MPix/CPU-s':>16}")
    mixed = "bfloat16" if use_bfloat16(CPU, True) else "float32"
    for name, network in networks.items():
        network.to(memory_format=torch.channels_last).eval()
        for precision in dict.fromkeys(("float32", mixed)):
            report(name, network, coarse, network.scale, precision)
    if importlib.util.find_spec("basicsr") is not None:
        from basicsr.archs.rrdbnet_arch import RRDBNet as BasicRRDBNet

        report("BasicSR", BasicRRDBNet(1, 1, scale=4).eval(), coarse, 4, "float32")
    ours, spline = volume_seconds(thick, torch.rand(SLICES, options.size, options.size) * 2 - 1)
    print(
        f"{SLICES} thick slices of {options.size} x {options.size} to {round(SLICES * thick.scale)}: {ours:.2f} "
        f"CPU-seconds in {mixed}, {ours / spline:.0f} times those of SciPy's cubic spline ({spline:.3f})"
    )
    images, side = TRAINED
    for name, network in {"in the plane": networks["bundle's"], "through it": thick}.items():
        seconds = cpu_seconds(training_step(network.train()))
        print(f"{seconds:.3f} CPU-seconds a training step {name}: {images} patches of {side} x {side} in {mixed}")


def report(name: str, network: nn.Module, coarse: Tensor, scale: int, precision: str) -> None:
    """Print the speed of one network."""
    inferer = MixedPrecisionInferer(CPU, amp=precision == "bfloat16")
    with torch.inference_mode():
        seconds = cpu_seconds(lambda: inferer(coarse, network))
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    rate = scale**2 * coarse[0, 0].numel() / 1e6 / seconds
    print(f"{name:>10} {scale:>6} {parameters:>9.2f} {precision:>10} {rate:>16.3f}")


def volume_seconds(network: RRDBNet, slices: Tensor) -> tuple[float, float]:
    """CPU-seconds of a network through the plane for (slices, H, W), and of SciPy's cubic spline."""
    upscaler, rows = SliceUpscaler(network, amp=True), round(len(slices) * network.scale)
    values, factors = slices.numpy(), (rows / len(slices), 1, 1)
    ours = cpu_seconds(lambda: through(slices, rows, upscaler))
    return ours, cpu_seconds(lambda: ndimage.zoom(values, factors, order=3, mode="reflect", grid_mode=True))


def training_step(network: RRDBNet) -> Callable[[], None]:
    """One of the first stage, in mixed precision, once the patches are cut."""
    images, side = TRAINED
    coarse = torch.rand(images, network.first.in_channels, side, side)
    truth = torch.rand(images, 1, network.step * side, network.step * side)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(CPU.type, torch.bfloat16, enabled=use_bfloat16(CPU, True)):
            found = network.detail(coarse)
        optimizer.zero_grad()
        F.smooth_l1_loss(found.float(), truth).backward()
        optimizer.step()

    return step
