"""The image measures of the SynthRAD challenges for synthetic CT, in Hounsfield units, to the digit.

References: Huijben et al., SynthRAD2023, Med. Image Anal. 97 (2024) 103276; Thummerer et al., SynthRAD2025,
arXiv:2502.17609; the challenges' evaluation code.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.image import SCALE_WEIGHTS
from medsynth.evaluation.metrics.paired.structural import Mask, Similarity, masked_means, ms_ssim

AIR_HU = -1024.0
RANGE_2023_HU = (AIR_HU, 3000.0)
RANGE_2025_HU = (AIR_HU, 3071.0)


def synthrad(prediction: NDArray, target: NDArray, mask: Mask) -> dict[str, float]:
    """MAE (HU), PSNR (dB) and SSIM as of 2023, MS-SSIM as of 2025, all inside the mask.

    MAE is not clipped; the others are, to the range of their year. For SSIM and MS-SSIM the outside is -1024 HU, and
    all values are raised by 1024.

    Args:
        prediction, target: (X, Y, Z) in HU.
        mask: (X, Y, Z), the body. A measure that has no voxel of it far enough from the border is left out, where the
            challenges' code has NaN.
    """
    inside = tuple(volume[mask].astype(np.float64) for volume in (prediction, target))
    mae = float(np.abs(inside[0] - inside[1]).mean())
    found = {"synthrad2023_mae": mae, "synthrad2025_mae": mae}
    for year, limits in ((2023, RANGE_2023_HU), (2025, RANGE_2025_HU)):
        found[f"synthrad{year}_psnr"] = _psnr(*inside, limits)
    pair = tuple(_raised(volume, mask, RANGE_2025_HU) for volume in (prediction, target))
    new, old = (Similarity(limits[1] - AIR_HU) for limits in (RANGE_2025_HU, RANGE_2023_HU))
    new = new._replace(exponent=SCALE_WEIGHTS[0])
    with contextlib.suppress(CannotMeasure):
        if max(volume.max() for volume in pair) <= old.data_range:  # both years clip alike
            found["synthrad2023_ssim"], finest = masked_means(*pair, mask, [old, new])
        else:
            clipped = (volume.clip(max=old.data_range) for volume in pair)
            (found["synthrad2023_ssim"],), finest = masked_means(*clipped, mask, [old]), None
        found["synthrad2025_ms_ssim"] = ms_ssim(*pair, mask, new.data_range, finest)
    return found


def _psnr(prediction: NDArray, target: NDArray, limits: tuple[float, float]) -> float:
    error = prediction.clip(*limits)
    error -= target.clip(*limits)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((limits[1] - limits[0]) ** 2 * len(error) / (error @ error)))


def _raised(volume: NDArray, mask: Mask, limits: tuple[float, float]) -> NDArray[np.float64]:
    """Clipped, air outside the mask, lowest value 0."""
    raised = volume.astype(np.float64)
    raised.clip(*limits, out=raised)
    raised -= limits[0]
    raised[~mask] = 0
    return raised
