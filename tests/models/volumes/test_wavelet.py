from __future__ import annotations

import torch

from medsynth.models.volumes.wavelet import bands, volumes


def test_the_first_band_is_the_mean_over_two_voxels_along_each_axis():
    image = torch.arange(64.0).view(1, 1, 4, 4, 4)
    found = bands(image)
    assert found.shape == (1, 8, 2, 2, 2)
    torch.testing.assert_close(found[:, :1], torch.nn.functional.avg_pool3d(image, 2))


def test_the_others_are_differences_along_one_two_or_three_axes():
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4)
    found = bands(ramp)[0, :, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0, 0, 0, -0.5, 0, 0, 0]))  # only along the first axis
    checkers = (torch.stack(torch.meshgrid(*[torch.arange(2)] * 3, indexing="ij")).sum(0) % 2).view(1, 1, 2, 2, 2)
    torch.testing.assert_close(bands(1.0 - 2 * checkers)[0, :, 0, 0, 0], torch.tensor([0.0] * 7 + [1.0]))


def test_nothing_is_lost():
    image = torch.randn(2, 1, 6, 4, 8)
    torch.testing.assert_close(volumes(bands(image)), image)
