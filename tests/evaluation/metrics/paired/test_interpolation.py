from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.evaluation.metrics.paired.interpolation import INTERPOLATIONS, bicubic


def smooth(rows: int, columns: int, side: int) -> torch.Tensor:
    """An off-centre blob in a field of view of 24 x 32, sampled at the centres of `side` pixels a unit."""
    y, x = ((torch.arange(count * side) + 0.5) / side for count in (rows, columns))
    return torch.exp(-((y[:, None] - 9.3) ** 2 + (x - 20.6) ** 2) / 12)[None]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_no_interpolation_moves_the_image(name, scale):
    made, truth = INTERPOLATIONS[name](smooth(24, 32, 1), scale), smooth(24, 32, scale)
    assert made.shape == truth.shape
    centres = [[(image.sum(axis) * torch.arange(image.shape[3 - axis])).sum() / image.sum() for axis in (1, 2)]
               for image in (made, truth)]  # fmt: skip
    assert torch.tensor(centres[0]) == pytest.approx(torch.tensor(centres[1]), abs=0.01)  # of a fine pixel
    error = (made - truth)[0, 3 * scale : -3 * scale, 3 * scale : -3 * scale].abs().max()
    moved = (truth - truth.roll(1, 2)).abs().max()
    assert error < (0.02 if name != "nearest" else 1.1 * moved * scale / 2)


@pytest.mark.parametrize("name", ["bicubic", "Lanczos", "spline"])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_ramp_stays_the_ramp_that_it_was_at_the_pixels_centres(name, scale):
    ramp = torch.arange(20.0).expand(1, 16, 20)
    made = INTERPOLATIONS[name](ramp, scale)[0, 8 * scale, 6 * scale : -6 * scale]
    expected = (torch.arange(6 * scale, 14 * scale) + 0.5) / scale - 0.5
    assert made == pytest.approx(expected, abs=0.02 if name == "Lanczos" else 1e-3)  # Lanczos ripples


def test_bicubic_is_that_of_keys_and_pillow():
    image = torch.rand(1, 15, 21, generator=torch.Generator().manual_seed(0))
    expected = np.asarray(Image.fromarray(image[0].numpy()).resize((42, 30), Image.Resampling.BICUBIC))
    assert np.abs(bicubic(image, 2)[0].numpy() - expected).max() < 1e-5
