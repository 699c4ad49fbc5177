from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medsynth.evaluation.metrics.catalog import PAIRED, entry
from medsynth.evaluation.metrics.result import Measure


@pytest.fixture
def measure() -> Callable[..., Measure]:
    """A measure of the catalog with made-up numbers."""

    def make(
        name: str, value: float | None, floor: float | None = None, baseline: float | None = None, **more
    ) -> Measure:
        kind = PAIRED[name] if name in PAIRED else entry(name)
        more = {"target": kind.target} | more
        return Measure(name, value, kind.unit, kind.direction, 500, floor=floor, baseline=baseline, **more)

    return make


@pytest.fixture
def heads() -> np.ndarray:
    """(30, 32, 32) discs of several sizes in [0, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    radii = rng.uniform(0.4, 0.9, 30)
    return np.array([(x**2 + y**2 < r**2) * rng.uniform(0.5, 0.9) for r in radii], dtype=np.float32)
