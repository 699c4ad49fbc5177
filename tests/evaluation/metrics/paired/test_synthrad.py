import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import crop

from medsynth.evaluation.metrics.paired.synthrad import synthrad


def volumes(shape, brightest=2000.0):
    rng = np.random.default_rng(0)
    target = gaussian_filter(rng.normal(size=shape), 2)
    target = (-1500 + (brightest + 1500) * (target - target.min()) / np.ptp(target)).astype(np.float32)
    prediction = target + rng.normal(0, 80, shape).astype(np.float32)
    mask = gaussian_filter(rng.normal(size=shape), 1) > -0.05
    mask[tuple(slice(side // 2 - 3, side // 2 + 4) for side in shape)] = True  # at the coarsest scale one voxel is left
    return prediction, target, mask


def ssim_of_2023(prediction, target, mask):
    pair = [np.where(mask, np.clip(v.astype(float), -1024, 3000), -1024.0) + 1024 for v in (target, prediction)]
    _, similarity = structural_similarity(*pair, data_range=4024.0, full=True)
    return crop(similarity, 3)[crop(mask, 3)].mean()


def ms_ssim_of_2025(prediction, target, mask):
    x, y = (np.where(mask, np.clip(v.astype(float), -1024, 3071), -1024.0) + 1024 for v in (target, prediction))
    missing = [max(97 - side, 0) for side in mask.shape]
    x, y, mask = (np.pad(v, [(m // 2, m - m // 2) for m in missing], mode="edge") for v in (x, y, mask))
    product, c1, c2 = 1.0, (0.01 * 4095) ** 2, (0.03 * 4095) ** 2
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mean_x, mean_y = uniform_filter(x, 7), uniform_filter(y, 7)
        sample = 343 / 342
        var_x = sample * (uniform_filter(x * x, 7) - mean_x**2)
        var_y = sample * (uniform_filter(y * y, 7) - mean_y**2)
        covariance = sample * (uniform_filter(x * y, 7) - mean_x * mean_y)
        deviations = np.sqrt(var_x.clip(0)) * np.sqrt(var_y.clip(0))
        luminance = ((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)).clip(0)
        contrast = ((2 * deviations + c2) / (var_x + var_y + c2)).clip(0)
        structure = ((covariance + c2 / 2) / (deviations + c2 / 2)).clip(0)
        similarity = luminance**weight * contrast**weight * structure**weight
        product *= np.clip(crop(similarity, 3)[crop(mask, 3)].mean(), 0, 1)
        x, y = (fftconvolve(v, np.full((2, 2, 2), 1 / 8), mode="same")[::2, ::2, ::2] for v in (x, y))
        mask = mask[::2, ::2, ::2]
    return product


@pytest.mark.parametrize("shape", [(30, 45, 27), (99, 40, 101)])
@pytest.mark.parametrize("brightest", [2000.0, 4000.0])
def test_equals_the_challenges_definitions_written_out_with_filters(shape, brightest):
    prediction, target, mask = volumes(shape, brightest)
    found = synthrad(prediction, target, mask)
    x, y = target[mask].astype(float), prediction[mask].astype(float)
    assert found["synthrad2023_mae"] == found["synthrad2025_mae"] == pytest.approx(np.abs(x - y).mean(), abs=1e-9)
    for year, top in ((2023, 3000), (2025, 3071)):
        expected = peak_signal_noise_ratio(x.clip(-1024, top), y.clip(-1024, top), data_range=top + 1024)
        assert found[f"synthrad{year}_psnr"] == pytest.approx(expected, abs=1e-9)
    assert found["synthrad2023_ssim"] == pytest.approx(ssim_of_2023(prediction, target, mask), abs=1e-9)
    assert found["synthrad2025_ms_ssim"] == pytest.approx(ms_ssim_of_2025(prediction, target, mask), abs=1e-9)


def test_errors_of_a_constant_shift_by_hand():
    target = np.zeros((12, 12, 12), np.float32)
    found = synthrad(target + 40.24, target, np.ones(target.shape, bool))
    assert found["synthrad2023_mae"] == pytest.approx(40.24, rel=1e-6)
    assert found["synthrad2023_psnr"] == pytest.approx(40.0, abs=1e-5)  # 20 log10(4024 / 40.24)
    one, other, c1 = 1024.0, 1064.24, 40.24**2
    assert found["synthrad2023_ssim"] == pytest.approx((2 * one * other + c1) / (one**2 + other**2 + c1), abs=1e-7)


def test_mae_is_not_clipped_and_psnr_is():
    target = np.full((8, 8, 8), 3500.0)
    found = synthrad(target + 100, target, np.ones(target.shape, bool))
    assert found["synthrad2023_mae"] == 100
    assert found["synthrad2023_psnr"] == np.inf


def test_ms_ssim_is_left_out_where_the_mask_is_too_small_for_its_coarsest_scale():
    prediction, target, mask = volumes((30, 30, 30))
    mask[:] = False
    mask[20:26, 20:26, 20:26] = True
    found = synthrad(prediction, target, mask)
    assert "synthrad2023_ssim" in found
    assert "synthrad2025_ms_ssim" not in found


def test_nothing_outside_the_mask_counts():
    prediction, target, mask = volumes((30, 30, 30))
    spoiled = np.where(mask, prediction, 2500).astype(np.float32)
    assert synthrad(spoiled, target, mask) == synthrad(prediction, target, mask)
