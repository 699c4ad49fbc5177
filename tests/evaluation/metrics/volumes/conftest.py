from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsynth.evaluation.metrics.volumes.volume_set import VolumeSet

SIZE = (16, 24, 16)


@pytest.fixture(scope="session")
def make_volumes() -> Callable[..., VolumeSet]:
    """Sets of ellipsoids, each of a subject with a size, a brightness and a texture of its own."""

    def build(count: int, seed: int, name: str = "volumes") -> VolumeSet:
        rng = np.random.default_rng(seed)
        axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in SIZE), indexing="ij")
        volumes = []
        for _ in range(count):
            inside = sum((axis * rng.uniform(1.2, 1.5)) ** 2 for axis in axes) < 1
            texture = gaussian_filter(rng.standard_normal(SIZE), 1.2)
            volumes.append(inside * (rng.uniform(0.4, 0.6) + 0.12 * texture / texture.std()))
        names = [f"{seed}-{number}" for number in range(count)]
        return VolumeSet(np.clip(volumes, 0, 1).astype(np.float32), names, name=name)

    return build
