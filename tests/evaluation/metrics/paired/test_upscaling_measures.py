from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from medsynth.evaluation.metrics.paired.upscaling_measures import MEASURES, best_of, measure_subject, summarize


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth image, itself with noise, and a mask of its middle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    real = np.stack([0.5 + 0.3 * np.sin(y / (4 + k)) * np.cos(x / 5) for k in range(3)]).astype(np.float32)
    mask = np.zeros(real.shape, bool)
    mask[:, 10:30, 12:36] = True
    return real + 0.02 * rng.standard_normal(real.shape).astype(np.float32), real, mask


def test_psnr_and_ssim_by_hand_inside_and_outside_the_head(pair):
    fake, real, mask = pair
    row, _ = measure_subject(fake, real, mask, (1.0, 1.0))
    assert row["psnr"] == pytest.approx(-10 * np.log10(np.mean((fake - real) ** 2)), abs=1e-3)
    assert row["psnr_head"] == pytest.approx(-10 * np.log10(np.mean((fake - real)[mask] ** 2)), abs=1e-3)
    maps = [structural_similarity(a, b, data_range=1.0, full=True) for a, b in zip(fake, real, strict=True)]
    assert row["ssim"] == pytest.approx(np.mean([mean for mean, _ in maps]), abs=1e-4)
    assert row["ssim_head"] == pytest.approx(
        np.mean([s[m].mean() for (_, s), m in zip(maps, mask, strict=True)]), abs=1e-4
    )


def test_the_truth_itself_is_best_in_every_measure(pair):
    fake, real, mask = pair
    best, _ = measure_subject(real, real, mask, (2.0, 2.0))
    row, _ = measure_subject(fake, real, mask, (2.0, 2.0))
    assert set(best) == set(MEASURES)
    assert best["psnr"] == np.inf
    assert best["gradient_ratio"] == 1 < row["gradient_ratio"]
    assert best["ssim_head"] == pytest.approx(1)
    assert best["resolution_mm"] == pytest.approx(4, rel=0.05)
    assert row["resolution_mm"] > best["resolution_mm"]


def rows_of(psnr: list[float], ratio: float = 1.0) -> list[dict[str, float]]:
    return [dict.fromkeys(MEASURES, value / 50) | {"psnr_head": value, "gradient_ratio": ratio} for value in psnr]


def test_the_network_stands_beside_the_best_interpolation_and_its_gain_is_paired():
    rows = {
        "nearest": rows_of([20, 30, 25]),
        "spline": rows_of([21, 31, 26], 0.8),
        "network": rows_of([22, 32, 27], 1.3),
    }
    measures = {measure.name: measure for measure in summarize(rows, "network", ["nearest", "spline"], seed=0)}
    own = measures["psnr_head"]
    assert (own.value, own.baseline, own.note, own.n) == (27, 26, "baseline: spline", 3)
    assert own.interval[0] < 27 < own.interval[1]
    gain = measures["psnr_head_gain"]
    assert gain.value == pytest.approx(1)
    assert gain.interval == pytest.approx((1, 1))  # every subject gains as much, however different they are
    assert measures["psnr_head_nearest"].value == 25
    assert best_of("gradient_ratio", rows, ["spline", "network"]) == "spline"  # 0.2 below 1 is nearer than 0.3 above
    assert best_of("resolution_mm", rows, ["nearest", "spline"]) == "nearest"  # lower is finer
