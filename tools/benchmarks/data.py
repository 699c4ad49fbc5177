"""Slices a second, seconds of preparation and peak memory, from volumes on disk to batches."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandFlipd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.phantom import default
from medsynth.data.preprocessing import foreground
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.transforms import MRI_PERCENTILES

MORE_VOLUMES = 10
PREPARATIONS = 3  # of which the fastest counts, since other work on the machine only slows
WARM_UP_BATCHES = 3
PEER_SLICES = 1000  # in the peer's memory: it deep-copies one at a time, so that more of them change nothing


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `data`."""
    parser = parsers.add_parser("data", help="loading and preparation against MONAI's, and memory")
    parser.add_argument("--datalist", help="default: the built-in phantom")
    parser.add_argument("--modality", default="mri")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels a side")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure both loaders, then both ways of preparation, then our memory, and print the tables."""
    torch.set_num_threads(1)
    entries = default.load(options.datalist).entries
    with tempfile.TemporaryDirectory() as cache_dir:
        print(f"{'pixels':>6} {'slices':>7} {'ours/s':>9} {'CacheDataset/s':>15} {'ratio':>7}")
        for size in options.sizes:
            preprocessing = Preprocessing(options.modality, None, None, size)
            dataset = SliceDataset(entries, preprocessing, cache_dir=cache_dir)
            print(speed_row(dataset, options.batch_size, options.seconds))
        if options.modality == "mri":
            print(f"\n{'pixels':>6} {'volumes':>7} {'ours s':>9} {'MONAI s':>15} {'ratio':>7} {'two processes':>14}")
            for size in options.sizes:
                print(preparation_row(entries, Preprocessing(options.modality, None, None, size)))
        print(f"\n{'volumes':>7} {'pixels':>6} {'peak MiB':>9} {'above an idle process':>22}")
        for count, size in itertools.product((1, MORE_VOLUMES), options.sizes):
            paths = linked([entry["image"] for entry in entries], count, Path(cache_dir))
            preprocessing = Preprocessing(options.modality, None, None, size)
            idle, peak = in_new_process(paths, preprocessing, options.batch_size, cache_dir)
            print(f"{len(paths):>7} {size:>6} {peak:>9.0f} {peak - idle:>22.0f}")


def speed_row(dataset: SliceDataset, batch_size: int, seconds: float) -> str:
    """Both loaders with a random flip, in turns so that other work on the machine hits both."""
    with tempfile.TemporaryDirectory() as folder:
        peer = DataLoader(cached_by_monai(dataset, Path(folder)), batch_size=batch_size, shuffle=True)
    ours = iter(SliceLoader(dataset, batch_size, flip=True))
    theirs = itertools.chain.from_iterable(itertools.repeat(peer))
    turns = [(rate(ours, seconds / 4), rate(theirs, seconds / 4)) for _ in range(4)]
    fast, slow = (sum(rates) / len(rates) for rates in zip(*turns, strict=True))
    return f"{dataset.images.shape[-1]:>6} {len(dataset):>7} {fast:>9,.0f} {slow:>15,.0f} {fast / slow:>7.1f}"


def preparation_row(entries: Sequence[dict], preprocessing: Preprocessing) -> str:
    """Seconds to prepare all volumes on one core, the choice of a spacing included; and how much faster two are."""
    with tempfile.TemporaryDirectory() as cache_dir:
        dataset = SliceDataset(entries, preprocessing, cache_dir=cache_dir)
    peer = plain_monai(dataset)
    ours, theirs, two = [], [], []
    for _ in range(PREPARATIONS):
        ours.append(seconds(lambda: prepare(entries, preprocessing, 0)))
        theirs.append(seconds(lambda: [peer({Keys.IMAGE: entry[Keys.IMAGE]}) for entry in entries]))
        two.append(seconds(lambda: prepare(entries, preprocessing, 2)))
    one, peers, both = min(ours), min(theirs), min(two)
    times = f"{one:>9.3g} {peers:>15.3g} {peers / one:>7.3g} {one / both:>12.3g} x"
    return f"{preprocessing.image_size:>6} {len(entries):>7} {times}"


def prepare(entries: Sequence[dict], preprocessing: Preprocessing, num_workers: int) -> None:
    """Into a cache that holds nothing yet."""
    with tempfile.TemporaryDirectory() as cache_dir:
        SliceDataset(entries, preprocessing, cache_dir=cache_dir, num_workers=num_workers)


def plain_monai(dataset: SliceDataset) -> Compose:
    """MONAI's own transforms from a file to slices of that size, resampled where the dataset's are."""
    size, steps = dataset.images.shape[-1], []
    if dataset.preprocessing.spacing_mm is not None:
        steps = [Spacingd(Keys.IMAGE, pixdim=(*dataset.spacing_mm, dataset.slice_mm))]
    return Compose(
        [
            LoadImaged(Keys.IMAGE),
            EnsureChannelFirstd(Keys.IMAGE),
            Orientationd(Keys.IMAGE, axcodes=foreground.AXES, labels=None),
            ScaleIntensityRangePercentilesd(Keys.IMAGE, *MRI_PERCENTILES, -1, 1, clip=True),
            *steps,
            ResizeWithPadOrCropd(Keys.IMAGE, (size, size, -1)),
        ]
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cached_by_monai(dataset: SliceDataset, folder: Path) -> CacheDataset:
    """The same slices as NIfTI files, loaded into MONAI's cache with its defaults."""
    entries = []
    for index in np.linspace(0, len(dataset) - 1, min(len(dataset), PEER_SLICES)).astype(int):
        entries.append({Keys.IMAGE: folder / f"{index}.nii.gz", Keys.LABEL: int(dataset.labels[index])})
        nib.save(nib.Nifti1Image(np.float32(dataset.images[index]), np.eye(4)), entries[-1][Keys.IMAGE])
    flip = RandFlipd(Keys.IMAGE, prob=0.5, spatial_axis=1)
    return CacheDataset(
        entries, Compose([LoadImaged(Keys.IMAGE), EnsureChannelFirstd(Keys.IMAGE), flip]), progress=False
    )


def rate(batches: Iterator[dict], seconds: float) -> float:
    """Slices a second."""
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches)[Keys.IMAGE])
    return count / (time.perf_counter() - start)


def linked(paths: Iterable[str], count: int, folder: Path) -> list[str]:
    """Each file under `count` names, so that it counts as that many volumes."""
    links = [
        (folder / f"{turn}_{number}_{Path(path).name}", path)
        for turn in range(count)
        for number, path in enumerate(paths)
    ]
    for link, path in links:
        if not link.is_symlink():
            link.symlink_to(Path(path).absolute())
    return [str(link) for link, _ in links]


def in_new_process(
    paths: list[str], preprocessing: Preprocessing, batch_size: int, cache_dir: str
) -> tuple[float, float]:
    """Peak memory in MiB of a process that has only imported this, and of one that prepares and reads all volumes."""
    pool = multiprocessing.get_context("spawn").Pool(1)
    idle = pool.apply(peak_mib)
    pool.apply(prepare_and_read, (paths, preprocessing, batch_size, cache_dir))
    peak = pool.apply(peak_mib)
    pool.close()
    pool.join()
    return idle, peak


def prepare_and_read(paths: list[str], preprocessing: Preprocessing, batch_size: int, cache_dir: str) -> None:
    """Two passes over the set."""
    torch.set_num_threads(1)
    dataset = SliceDataset([{"image": path, "subject": path} for path in paths], preprocessing, cache_dir=cache_dir)
    loader = SliceLoader(dataset, batch_size, flip=True)
    for _ in itertools.islice(loader, 2 * len(loader)):
        pass


def peak_mib() -> float:
    """The most memory that this process has had; Linux only, where `getrusage` would give that of its parent."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{os.getpid()}/status").read_text())[1]) / 1024
