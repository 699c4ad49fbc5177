from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medsynth.nn.resampling import average, repeat, spline, truncate, zero_fill


def waves(rows: int, columns: int, scale: int) -> torch.Tensor:
    """A pattern of a few periods in a field of view, at the centres of rows / scale x columns / scale pixels."""
    y = (torch.arange(rows // scale) + 0.5) * scale / rows
    x = (torch.arange(columns // scale) + 0.5) * scale / columns
    tall, wide = torch.sin(2 * torch.pi * 2 * y + 0.7), torch.cos(2 * torch.pi * 3 * x - 0.4)
    return 0.3 + tall[:, None] * wide + 0.5 * wide


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("side", [64, 72, 60])
def test_what_both_grids_can_hold_is_the_same_object_on_both(scale, side):
    fine, coarse = waves(side, 96, 1), waves(side, 96, scale)
    assert torch.allclose(truncate(fine, scale), coarse, atol=1e-5)
    assert torch.allclose(zero_fill(coarse, scale), fine, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("resample", [truncate, average], ids=lambda f: f.__name__)
def test_coarse_images_have_their_object_where_the_fine_ones_have_it(resample, scale):
    fine = torch.zeros(48, 64)
    fine[20:28, 36:44] = 1.0  # edges at 20 / 48 and 28 / 48 of the field of view
    coarse = resample(fine, scale)
    assert centre(coarse) == pytest.approx(centre(fine), abs=2e-3)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("resample", [zero_fill, spline, repeat], ids=lambda f: f.__name__)
def test_fine_images_have_their_object_where_the_coarse_ones_have_it(resample, scale):
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    coarse = torch.exp(-((y - 9) ** 2 + (x - 20) ** 2) / 8)
    assert centre(resample(coarse, scale)) == pytest.approx(centre(coarse), abs=1e-4)


def centre(image: torch.Tensor) -> list[float]:
    """Of mass, as shares of the field of view."""
    total = image.sum()
    along = [(torch.arange(side) + 0.5) / side for side in image.shape]
    return [float(image.sum(1) @ along[0] / total), float(image.sum(0) @ along[1] / total)]


@pytest.mark.parametrize(("rows", "columns"), [(15, 21), (16, 9)])
def test_splines_are_those_of_scipy(rows, columns):
    image = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    expected = ndimage.zoom(image.double().numpy(), 2, order=3, mode="reflect", grid_mode=True)
    assert np.abs(spline(image, 2).numpy() - expected).max() < 1e-5


def test_going_up_and_down_again_changes_nothing():
    image = torch.rand(3, 1, 15, 21, generator=torch.Generator().manual_seed(0))  # odd: no outermost frequency
    assert torch.allclose(truncate(zero_fill(image, 2), 2), image, atol=1e-5)
    assert torch.allclose(average(repeat(image, 4), 4), image, atol=1e-6)


def test_truncation_keeps_the_central_part_of_k_space():
    fine = torch.rand(24, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = np.fft.fftshift(np.fft.fft2(fine.numpy()))[6:18, 10:30]
    rows, columns = np.arange(-6, 6)[:, None] / 24, np.arange(-10, 10) / 40
    half_a_pixel = np.exp(2j * np.pi * 0.5 * rows) * np.exp(2j * np.pi * 0.5 * columns)
    scan = np.fft.ifft2(np.fft.ifftshift(spectrum * half_a_pixel)) / 4
    difference = np.fft.fftshift(np.fft.fft2(truncate(fine, 2).numpy() - scan.real))
    assert np.abs(difference[1:, 1:]).max() < 1e-4  # but for the outermost frequency, whose phase one side cannot tell


def test_mixed_precision_does_not_round_images():
    image = torch.rand(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        under = [zero_fill(image, 2), spline(image, 2), truncate(image, 2)]
    assert all(map(torch.equal, under, [zero_fill(image, 2), spline(image, 2), truncate(image, 2)]))
