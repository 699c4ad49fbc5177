from __future__ import annotations

import numpy as np
import pytest

from medsynth.evaluation.metrics.paired.fourier_ring import HALF, SEVENTH, FourierRing, fourier_ring, resolution_mm


@pytest.fixture
def noise() -> np.ndarray:
    """(6, 61, 80) white noise: equally much of every detail."""
    return np.random.default_rng(0).standard_normal((6, 61, 80))


def low_pass(images: np.ndarray, limit: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Nothing finer than `limit` cycles per mm."""
    axes = (np.fft.fftfreq(side, mm) for side, mm in zip(images.shape[1:], spacing_mm, strict=True))
    frequency = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(images) * (frequency <= limit)).real


def test_an_image_agrees_with_itself_up_to_its_pixels_whatever_its_brightness(noise):
    ring = fourier_ring(3 * noise + 100, noise, (2.0, 2.0))
    np.testing.assert_allclose(ring.correlation, 1)
    assert ring.frequency[-1] == pytest.approx(0.25, abs=1 / 122)
    assert resolution_mm(ring) == pytest.approx(4.0, rel=0.05)  # twice the pixels


def test_noise_agrees_with_nothing(noise):
    ring = fourier_ring(np.random.default_rng(1).standard_normal(noise.shape), noise, (1.0, 1.0))
    assert abs(np.average(ring.correlation, weights=ring.frequency)) < 0.03
    assert np.abs(ring.correlation[5:]).max() < 0.25


@pytest.mark.parametrize("limit", [0.1, 0.2])
def test_what_is_finer_than_its_cutoff_does_not_agree_and_noise_in_its_place_does_not_help(noise, limit):
    other = np.random.default_rng(1).standard_normal(noise.shape)
    filtered = low_pass(noise, limit, (2.0, 2.0))
    sharpened = filtered + other - low_pass(other, limit, (2.0, 2.0))
    for image in (filtered, sharpened):
        ring = fourier_ring(image, noise, (2.0, 2.0))
        assert resolution_mm(ring, HALF) == pytest.approx(1 / limit, rel=0.06)
        assert resolution_mm(ring, SEVENTH) <= resolution_mm(ring, HALF)


def test_rings_are_round_in_mm_and_end_where_the_coarser_axis_does(noise):
    spacing_mm = (1.0, 2.0)
    ring = fourier_ring(low_pass(noise, 0.15, spacing_mm), noise, spacing_mm)
    assert resolution_mm(ring) == pytest.approx(1 / 0.15, rel=0.08)
    assert ring.frequency[-1] <= 0.25 + 1 / 61


def test_the_correlation_of_known_noise_is_known(noise):
    other = np.random.default_rng(1).standard_normal(noise.shape)
    ring = fourier_ring(noise + other, noise, (1.0, 1.0))
    assert np.average(ring.correlation, weights=ring.frequency) == pytest.approx(0.5**0.5, abs=0.03)


def test_the_resolution_is_read_between_rings():
    ring = FourierRing(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.75, 0.25]))
    assert resolution_mm(ring, 0.5) == pytest.approx(1 / 0.25)
    assert resolution_mm(ring, 0.9) == pytest.approx(1 / 0.14)
    assert resolution_mm(ring, 0.1) == pytest.approx(1 / 0.3)  # it never falls so far


def test_an_empty_image_has_no_detail(noise):
    ring = fourier_ring(np.zeros_like(noise), noise, (1.0, 1.0))
    assert (ring.correlation == 0).all()
    assert resolution_mm(ring) == pytest.approx(61.0)  # the coarsest ring


def test_images_of_two_shapes_are_a_mistake(noise):
    with pytest.raises(ValueError, match="needs two equal"):
        fourier_ring(noise[:, 1:], noise, (1.0, 1.0))
