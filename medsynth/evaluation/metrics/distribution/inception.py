"""Fréchet distance in the features of an Inception network, for those who have its weights in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import entry
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.distances import frechet_distance
from medsynth.evaluation.metrics.distribution.image_set import ImageSet, random_indices
from medsynth.evaluation.metrics.result import Measure

NAME = "fd_inception"
BATCH = 32


def inception_distance(
    path: str | Path, train: ImageSet, held_out: ImageSet, synthetic: ImageSet, seed: int, device: str = "cpu"
) -> Measure:
    """`fd_inception` of synthetic images against held-out ones; its floor is that of as many training images.

    Args:
        path: a TorchScript file that takes (N, 3, H, W) uint8 and, as NVIDIA's inception-2015-12-05.pt does,
            `return_features=True`, and gives (N, D) features. Loading one runs what is in it: use only what you trust.

    Raises:
        MedsynthError: no such network.

    Reference: Heusel et al., arXiv:1706.08500.
    """
    kind, count = entry(NAME), min(len(synthetic), len(train))
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
        real, fake, other = (
            _features(network, images.images[random_indices(len(images), most, seed)], device)
            for images, most in ((held_out, len(held_out)), (synthetic, count), (train, count))
        )
        value, floor = frechet_distance(real, fake), frechet_distance(real, other)
    except CannotMeasure as reason:
        return Measure(NAME, None, kind.unit, kind.direction, count, note=str(reason))
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MedsynthError(
            f"inception {path} cannot be used ({reason}): give a TorchScript file of features"
        ) from error
    return Measure(NAME, value, kind.unit, kind.direction, count, floor=floor, note="features of the given network")


@torch.inference_mode()
def _features(network: torch.jit.ScriptModule, images: NDArray[np.float32], device: str) -> NDArray[np.float64]:
    """(N, H, W) in [0, 1] -> (N, D)."""
    grey = torch.from_numpy((images * 255).round().astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    parts = [network(part.contiguous().to(device), return_features=True) for part in grey.split(BATCH)]
    return torch.cat([part.flatten(1).cpu() for part in parts]).double().numpy()
