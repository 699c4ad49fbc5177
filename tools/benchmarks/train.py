"""Training steps: images a second, memory, and how much of the machine they use."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.data import peak_mib as process_peak_mib
from medsynth.data.datasets.loader import SliceLoader
from medsynth.models.vaegan.trainer import VaeGanTrainer
from medsynth.nn.precision import use_bfloat16

CONFIG = Path(__file__).parents[2] / "bundles" / "vaegan" / "train.json"
PARAMETERS = 1_200_000  # trainable, of all networks of the step, as the bundle's defaults have
IMAGES = 256
WARM_UP_STEPS = {"cpu": 3, "cuda": 32}  # a GPU's are recorded when each kind of step has run a few times
TURNS = 3  # of each measurement; the fastest counts, since other work on the machine only slows
MATRIX = 4096
PEER = "pythae"
ALL_KINDS_OF_STEPS = 16  # that FLOPs and memory are counted in: penalties are taken in every 4th
STEPS = "steps"  # what the profiler calls them


@dataclass(frozen=True)
class Measurement:
    """One system's step; rates are of images."""

    precision: str
    parameters: int
    per_second: float
    per_cpu_second: float
    peak_mib: float
    above_idle_mib: float
    flops_per_image: float = float("nan")
    tensors_mib: float = float("nan")


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `train`."""
    parser = parsers.add_parser("train", help="images a second of a training step, memory, share of the machine's peak")
    parser.add_argument("system", choices=["vaegan"])
    parser.add_argument("--image_size", type=int, nargs="+", default=[64, 128], choices=[64, 128, 256])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--device", default="cpu", help="cuda: memory is then what PyTorch took of the GPU's")
    parser.add_argument("--peer", action="store_true", help="pythae's VAEGAN too (pip install pythae)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure each step in a process of its own, and print the table."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler warns of missing GPUs
    peak = in_new_process(matrix_peak, options.threads, options.device)
    print(f"matrix products reach {peak / 1e9:,.0f} GFLOP/s, device {options.device}, {options.threads} threads")
    ours = partial(bundle_step, device=options.device)
    mixed = use_bfloat16(torch.device(options.device), True)
    systems = [("ours", partial(ours, amp=amp)) for amp in ((True, False) if mixed else (False,))]
    if options.device != "cpu":
        systems.append(("unrecorded", partial(ours, amp=True, cuda_graphs=False)))
    if options.peer and importlib.util.find_spec("pythae") is None:
        print("pythae is not installed: pip install pythae to measure against it")
    elif options.peer:
        from benchmarks.peers import pythae_step

        systems.append((PEER, partial(pythae_step, device=options.device)))
    columns = ("pixels", "step", "precision", "M params", "images/s", "/CPU-s", "peak MiB", "above idle")
    columns += ("tensors", "GFLOP/image", "of peak")
    headings = " ".join(f"{name:>11}" for name in columns)
    has_peer = systems[-1][0] == PEER
    print(headings + ("  ours to peer: /s, /CPU-s, MiB, above idle, tensors" if has_peer else ""))
    for size in options.image_size:
        found = measure_in_turns([step for _, step in systems], size, options)
        for (name, _), measurement in zip(systems, found, strict=True):
            print(row(size, name, measurement, peak) + (ratios(measurement, found[-1]) if has_peer else ""))


def measure_in_turns(steps: list[Callable[..., Step]], size: int, options: argparse.Namespace) -> list[Measurement]:
    """The fastest of each, in turns, since the speed of the machine varies."""
    parameters = PARAMETERS

    def in_own_process(function: Callable, step: Callable[..., Step], *more: object) -> object:
        return in_new_process(function, step, size, options.batch_size, parameters, options.threads, *more)

    rounds: list[list[Measurement]] = []
    for _ in range(TURNS):
        rounds.append([])
        for step in steps:  # not in shorter ones: some steps have a penalty and others have none
            rounds[-1].append(in_own_process(measure, step, options.seconds, options.device))
            parameters = rounds[0][0].parameters  # the others get as many as the first has
    found = []
    for step, measured in zip(steps, zip(*rounds, strict=True), strict=True):
        fastest = max(measured, key=lambda turn: turn.per_second)
        fastest = replace(fastest, flops_per_image=in_own_process(flops_per_image, step))
        if options.device == "cpu":
            fastest = replace(fastest, tensors_mib=in_own_process(tensors_mib, step))
        found.append(fastest)
    return found


def row(size: int, name: str, found: Measurement, peak: float) -> str:
    """One line of the table; `peak` in FLOP/s."""
    share = found.flops_per_image * found.per_second / peak
    return (
        f"{size:>11} {name:>11} {found.precision:>11} {found.parameters / 1e6:>11.2f} {found.per_second:>11.1f} "
        f"{found.per_cpu_second:>11.1f} {found.peak_mib:>11.0f} "
        f"{found.above_idle_mib:>11.0f} {found.tensors_mib:>11.0f} {found.flops_per_image / 1e9:>11.2f} {share:>11.1%}"
    )


def ratios(ours: Measurement, peer: Measurement) -> str:
    """Of the rates and of the memory."""
    names = ("per_second", "per_cpu_second", "peak_mib", "above_idle_mib", "tensors_mib")
    return "  " + "  ".join(f"{getattr(ours, name) / getattr(peer, name):.2f}" for name in names)


def in_new_process(function: Callable, *arguments: object) -> object:
    """Its result from a process that does nothing else, whose peak memory is therefore its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def matrix_peak(threads: int, device: str) -> float:
    """The most FLOP/s that large matrix products reach here, in float32, or in bfloat16 where training uses it."""
    torch.set_num_threads(threads)
    fastest = 0.0
    kinds = [torch.float32] + [torch.bfloat16] * use_bfloat16(torch.device(device), True)  # elsewhere it takes hours
    for kind in kinds:
        a, b = (torch.randn(MATRIX, MATRIX, device=device).to(kind) for _ in range(2))
        for _ in range(2 + TURNS):
            start = finished(device)
            torch.mm(a, b)
            fastest = max(fastest, 2 * MATRIX**3 / (finished(device) - start))
    return fastest


def peak_mib(device: str) -> float:
    """The most memory that this process has had: of the machine's, or of the GPU's."""
    return process_peak_mib() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def finished(device: str) -> float:
    """Waits for `device`; the time, in seconds."""
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


Step = tuple[Callable[[Tensor], None], list[nn.Module], str]
"""A function that trains on a batch (N, 1, size, size) in [-1, 1], the networks that it trains, its precision."""


def bundle_step(size: int, batch_size: int, parameters: int, amp: bool, device: str, cuda_graphs: bool = True) -> Step:
    """The step of the trainer that the bundle's config builds, with about so many parameters, on random images.

    It is one of the first part: of encoder and decoder, and of the critic.
    """
    widths = range(32, 513, 32)  # what attention heads divide
    build = partial(trainer_of, size, batch_size, amp=amp, device=device, cuda_graphs=cuda_graphs)
    trainer = build(closest_width(lambda width: networks_of(build(width)), widths, parameters))
    trainer.schedule.done = 1.0  # so that the critic has joined
    facts = {name: fact.to(device) for name, fact in trainer.data_loader.dataset.facts(np.arange(batch_size)).items()}

    def step(images: Tensor) -> None:
        trainer.state.iteration += 1
        trainer._iteration(trainer, {"image": images, **facts})

    return step, networks_of(trainer), "bfloat16" if trainer.bfloat16 else "float32"


def networks_of(trainer: VaeGanTrainer) -> list[nn.Module]:
    """All that it trains in the first part."""
    return [trainer.network.encoder, trainer.network.decoder, trainer.discriminator]


def trainer_of(size: int, batch_size: int, channels: int, **settings: object) -> VaeGanTrainer:
    """The trainer of the bundle's config on random slices, without handlers."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update({"image_size": size, "channels": channels, "classes": ["AD", "NC"]} | settings)
    parser["train"]["dataloader"] = SliceLoader(RandomSlices(size), batch_size)
    parser["train"]["handlers"] = []
    parser["run_folder"] = SimpleNamespace(session_seconds=0.0, start_iteration=0)
    return parser.get_parsed_content("train#trainer")


class RandomSlices:
    """What a trainer reads of a `SliceDataset`."""

    def __init__(self, size: int) -> None:
        self.images = torch.rand(IMAGES, size, size) * 2 - 1
        self.views, self.stored_slices = {"image": np.arange(IMAGES)[:, None]}, self

    def __len__(self) -> int:
        return IMAGES

    def read(self, indices: np.ndarray) -> Tensor:
        """Slices (..., size, size) of these indices."""
        return self.images[torch.from_numpy(indices)]

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Two classes in turns, positions in order."""
        index = torch.from_numpy(indices)
        facts = {"label": index % 2, "position": index / IMAGES, "index": index}
        return facts | {"covariates": torch.zeros(len(indices), 0)}


def closest_width(build: Callable[[int], list[nn.Module]], widths: range, parameters: int) -> int:
    """The width whose networks come closest to so many trainable parameters."""
    best = widths[0]
    distance = float("inf")
    for width in widths:
        before, distance = distance, abs(trainable(build(width)) - parameters)
        if distance >= before:
            break
        best = width
    return best


def trainable(networks: list[nn.Module]) -> int:
    """Parameters that take gradients."""
    return sum(p.numel() for network in networks for p in network.parameters() if p.requires_grad)


def measure(
    build: Callable[[int, int, int], Step],
    size: int,
    batch_size: int,
    parameters: int,
    threads: int,
    seconds: float,
    device: str = "cpu",
) -> Measurement:
    """Build a step and time it; call it in a new process."""
    idle = peak_mib(device)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, networks, precision = build(size, batch_size, parameters)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: building briefly took more
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    images = torch.rand(batch_size, 1, size, size, device=device) * 2 - 1
    for _ in range(WARM_UP_STEPS[torch.device(device).type]):
        step(images)
    rates, cpu_rates = zip(*(rate(step, images, seconds / TURNS) for _ in range(TURNS)), strict=True)
    peak = peak_mib(device)
    return Measurement(precision, trainable(networks), max(rates), max(cpu_rates), peak, peak - idle)


def flops_per_image(build: Callable[..., Step], size: int, batch_size: int, parameters: int, threads: int) -> float:
    """What a training step computes, counted on the CPU, since a recorded graph cannot be inspected."""
    torch.set_num_threads(threads)
    step, *_ = build(size, batch_size, parameters, device="cpu")
    images = torch.rand(batch_size, 1, size, size) * 2 - 1
    with CountFlops() as counter:
        for _ in range(ALL_KINDS_OF_STEPS):
            step(images)
    return counter.total / ALL_KINDS_OF_STEPS / batch_size


def tensors_mib(
    build: Callable[[int, int, int], Step], size: int, batch_size: int, parameters: int, threads: int
) -> float:
    """The most memory that tensors take while it trains, weights included; call it in a new process.

    The rest of what a process takes above idle is code that PyTorch generates for each shape of a convolution, and
    memory that was freed and not given back.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step, *_ = build(size, batch_size, parameters)
        gc.collect()
        images = torch.rand(batch_size, 1, size, size) * 2 - 1
        with record_function(STEPS):
            for _ in range(ALL_KINDS_OF_STEPS):
                step(images)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    taken = np.cumsum([event.nbytes() if event.name() == "[memory]" else 0 for event in events])
    first = next(number for number, event in enumerate(events) if event.name() == STEPS)
    return float(taken[first:].max()) / 2**20


class CountFlops(TorchDispatchMode):
    """Adds up what PyTorch's own `FlopCounterMode` does, which fails where a step takes gradients of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def rate(step: Callable[[Tensor], None], images: Tensor, seconds: float) -> tuple[float, float]:
    """Images a second, and a second of one CPU."""
    device = images.device.type
    count, start, cpu = 0, finished(device), time.process_time()
    while time.perf_counter() - start < seconds:
        step(images)
        count += len(images)
    return count / (finished(device) - start), count / (time.process_time() - cpu)
