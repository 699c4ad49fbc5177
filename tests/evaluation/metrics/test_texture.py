import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from medsynth.evaluation.metrics.texture import gradient_ratio, intensity_w1, psd, radial_power_db, swd


def smooth_noise(count: int, seed: int, size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((count, size, size))
    return (0.5 + 0.8 * gaussian_filter(noise, (0, 1, 1))).clip(0, 1).astype(np.float32)


def test_swd_of_a_set_with_itself_is_small_and_sees_blur_at_the_finest_level():
    real, other = smooth_noise(100, 0), smooth_noise(100, 1)
    blurred = gaussian_filter(other, (0, 0.5, 0.5))
    same, blur = swd(real, other, seed=0), swd(real, blurred, seed=0)
    assert list(same) == [64, 32, 16]
    assert max(same.values()) < 40
    assert blur[64] > 5 * same[64]


def test_swd_of_a_contrast_change_by_hand():
    # Each projection of the finest patches shrinks by half: W1 = 0.5 E|projection|, and a projection of normalized
    # patches of white noise is standard normal but for what the pyramid takes: E|x| = sqrt(2 / pi).
    noise = np.random.default_rng(0).standard_normal((200, 32, 32)).astype(np.float32)
    real, fake = (0.5 + scale * noise for scale in (0.1, 0.05))
    value = swd(real.clip(0, 1), fake.clip(0, 1), seed=0)[32]
    assert value == pytest.approx(1e3 * 0.5 * np.sqrt(2 / np.pi), rel=0.03)


def test_swd_is_the_same_for_a_seed_and_differs_between_seeds():
    real, fake = smooth_noise(20, 0), smooth_noise(30, 1)
    assert swd(real, fake, seed=3) == swd(real, fake, seed=3) != swd(real, fake, seed=4)


def test_psd_of_a_halved_contrast_is_six_decibels_everywhere():
    real = smooth_noise(10, 0, size=33)
    result = psd(real, real / 2)
    assert result == pytest.approx((20 * np.log10(2), -20 * np.log10(2)), abs=1e-4)


def test_psd_of_blur_is_the_filter_s_own_response():
    impulse = np.zeros((2, 32, 32), np.float32)
    impulse[:, 16, 16] = 1
    blurred = gaussian_filter(impulse, (0, 0.6, 0), mode="wrap")
    taps = blurred[0, :, 16]
    response = np.abs(np.fft.fft(taps)) ** 2  # by vertical frequency alone
    frequency = np.fft.fftfreq(32)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None]) * 32) == 16
    nyquist = 10 * np.log10(np.broadcast_to(response[:, None], (32, 32))[ring].mean())
    assert radial_power_db(blurred)[-1] - radial_power_db(impulse)[-1] == pytest.approx(nyquist, abs=1e-3)


def test_a_single_frequency_lands_in_its_own_ring():
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * 5 * np.arange(32) / 32)
    images = np.broadcast_to(wave, (2, 32, 32)).astype(np.float32)
    assert radial_power_db(images).argmax() == 5 - 1  # the first ring is 1 cycle a side


def test_gradient_ratio_of_ramps_by_hand():
    ramp = np.broadcast_to(np.arange(16) / 32, (2, 16, 16)).astype(np.float32)
    steps = ramp + ramp.transpose(0, 2, 1)  # the same slope both ways: sqrt 2 times as steep
    assert gradient_ratio(ramp, steps) == pytest.approx(np.sqrt(2), rel=1e-6)


def test_intensity_w1_of_a_shift_is_the_shift_and_air_does_not_count():
    rng = np.random.default_rng(0)
    real = np.zeros((4, 20, 20), np.float32)
    real[:, 5:15, 5:15] = rng.uniform(0.3, 0.6, (4, 10, 10))
    fake = np.where(real > 0, real + np.float32(0.05), 0)
    assert intensity_w1(real, fake) == pytest.approx(50, abs=0.01)


def test_intensity_w1_agrees_with_scipy():
    real, fake = smooth_noise(5, 0), smooth_noise(5, 1) ** 2
    expected = 1e3 * wasserstein_distance(real[real > 0.1], fake[fake > 0.1])
    assert intensity_w1(real, fake) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((2, 16, 16)), np.zeros((2, 20, 20)), r"\(16, 16\) and fake ones \(20, 20\)"),
        (np.zeros((2, 16, 16)), np.full((2, 16, 16), np.nan), "fake images: values from nan"),
        (np.zeros((2, 16, 16)), np.full((2, 16, 16), -1.0), "from -1.0 to -1.0"),
        (np.zeros((2, 16, 16), np.uint8), np.zeros((2, 16, 16)), "dtype uint8"),
        (np.zeros((2, 1, 16, 16)), np.zeros((2, 16, 16)), r"shape \(2, 1, 16, 16\)"),
    ],
)
@pytest.mark.parametrize("measure", [psd, gradient_ratio, intensity_w1])
def test_wrong_images_get_a_clear_line(measure, real, fake, message):
    with pytest.raises(ValueError, match=message):
        measure(real, fake)


def test_constant_real_images_get_a_clear_line():
    flat = np.full((2, 16, 16), 0.5)
    with pytest.raises(ValueError, match="constant"):
        gradient_ratio(flat, flat)
    with pytest.raises(ValueError, match="constant"):
        swd(flat, flat, seed=0)
    with pytest.raises(ValueError, match="no pixel above"):
        intensity_w1(np.zeros((2, 16, 16)), flat)


def test_swd_halves_oblong_images_while_both_sides_allow_it():
    images = np.random.default_rng(0).random((4, 40, 64))
    assert swd(images, images[::-1].copy(), seed=0).keys() == {40, 20}
    with pytest.raises(ValueError, match="at least 16 pixels"):
        swd(images[:, :15], images[:, :15], seed=0)
