"""Bootstrap intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REPLICATES = 200
LEVELS = (2.5, 97.5)  # per cent


def bootstrap_interval(
    value: float, replicates: Callable[[Array], Array], units: int, seed: int, limits: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval of a value whose units (subjects) are drawn again with replacement.

    Drawing some subjects twice leaves fewer different ones, which makes distances larger. So the spread of the
    replicates round their own median is laid round the value.

    Args:
        replicates: (REPLICATES, units), how often each unit is drawn -> (REPLICATES,) values.
        limits: that the measure cannot pass.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 10 and 13.
    """
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=REPLICATES)
    found = replicates(draws.astype(np.float64))
    low, high = np.nanpercentile(found, LEVELS) - np.nanmedian(found)
    return float(np.clip(value + low, *limits)), float(np.clip(value + high, *limits))
