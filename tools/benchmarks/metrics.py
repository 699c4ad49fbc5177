"""Seconds of the measures: sets of images against each other, and a predicted volume against the true one."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import SSIMMetric
from scipy.ndimage import gaussian_filter

from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.set_measures import evaluate_unpaired
from medsynth.evaluation.metrics.paired.pair_measures import evaluate_pair

VOLUME = (192, 128, 128)
NOISE_HU = 50.0
SLICES_PER_SUBJECT = 30


def add_options(parsers: argparse._SubParsersAction) -> None:
    """The subcommand `metrics`."""
    parser = parsers.add_parser("metrics", help="seconds of the evaluation's measures, against MONAI's SSIM")
    parser.add_argument("--images", type=int, default=2000, help="of each set")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    torch.set_num_threads(options.threads)
    paired()
    unpaired(options.images, options.image_size)


def paired() -> None:
    """All measures of a pair against one of MONAI's."""
    prediction, target, body = made_up_pair()
    whole = np.ones_like(body)
    tensors = [torch.from_numpy(volume)[None, None] for volume in (prediction, target)]
    monai = SSIMMetric(spatial_dims=3, data_range=4095.0, kernel_type="uniform", win_size=7)
    print(f"{'paired measures of ' + ' x '.join(map(str, VOLUME)):<50} {'CPU-s':>7}")
    for name, function in (
        ("all of ours, CT, in the body", lambda: evaluate_pair(prediction, target, body, "ct")),
        ("all of ours, CT, in the whole volume", lambda: evaluate_pair(prediction, target, whole, "ct")),
        ("MONAI's SSIM alone", lambda: monai(*tensors)),
    ):
        print(f"{name:<50} {cpu_seconds(function):>7.2f}")


def unpaired(images: int, size: int) -> None:
    """All measures of two sets but utility, after the feature network is trained."""
    train, held_out, synthetic = (made_up_set(images, size, seed) for seed in range(3))
    with tempfile.TemporaryDirectory() as cache_dir:
        evaluate_unpaired(train, held_out, synthetic, 0, cache_dir, most_images=100, utility=False)  # trains
        start = time.process_time()
        found = evaluate_unpaired(train, held_out, synthetic, 0, cache_dir, utility=False)
        total = time.process_time() - start
    print(f"\n{f'{images} against {images} images of {size} pixels':<50} {total:>7.1f} CPU-s")
    for part, seconds in sorted(found.seconds.items(), key=lambda item: -item[1]):
        print(f"{part:<50} {seconds:>7.1f} s")


def made_up_pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction and its target in HU, and an ellipsoid inside both."""
    rng = np.random.default_rng(0)
    target = np.float32(500 * gaussian_filter(rng.standard_normal(VOLUME), 3) / 0.03)
    prediction = target + np.float32(NOISE_HU) * rng.standard_normal(VOLUME, dtype=np.float32)
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in VOLUME], indexing="ij", sparse=True)
    return prediction, target, sum(axis**2 for axis in axes) < 0.81


def made_up_set(images: int, size: int, seed: int) -> ImageSet:
    """Smooth blobs with noise, as many a subject as slices of a head."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.standard_normal((images, size, size), dtype=np.float32), (0, size / 16, size / 16))
    unit = 0.5 + 0.15 * blobs / blobs.std() + 0.02 * rng.standard_normal(blobs.shape, dtype=np.float32)
    subjects = [f"{seed}-{number // SLICES_PER_SUBJECT}" for number in range(images)]
    return ImageSet(unit.clip(0, 1), subjects, positions=rng.random(images))


def cpu_seconds(function: Callable[[], object], turns: int = 3) -> float:
    """The least of some turns, since other work on the machine only slows."""
    found = []
    for _ in range(turns):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)
