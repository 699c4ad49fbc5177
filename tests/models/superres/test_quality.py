from __future__ import annotations

import math

import pytest
import torch
from small_networks import RRDB

from medsynth.models.superres.degradation import degrade
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.quality import UpscalingQuality


def heads(count: int) -> torch.Tensor:
    """Noisy squares on air."""
    torch.manual_seed(0)
    images = torch.full((count, 1, 80, 80), -1.0)
    images[..., 24:56, 24:56] = torch.rand(count, 1, 32, 32) - 0.5
    return images


def measured(found, truth, network):
    metric = UpscalingQuality(network)
    metric.update((degrade(truth, 2, "kspace"), found, truth))
    return metric.compute()


def test_the_interpolation_itself_gains_nothing():
    truth, network = heads(2), RRDBNet(**RRDB | {"channels": 4, "growth": 2})
    values = measured(network.interpolation(degrade(truth, 2, "kspace")), truth, network)
    assert values["gain_db"] == pytest.approx(0, abs=1e-6)
    assert values["ssim"] == pytest.approx(values["interpolation_ssim"])


def test_psnr_counts_the_inside_of_the_head_alone():
    truth, network = heads(3), RRDBNet(**RRDB | {"channels": 4, "growth": 2})
    found = truth + 0.1
    found[..., :3, :] = 1.0  # air
    assert measured(found, truth, network)["psnr_db"] == pytest.approx(10 * math.log10(4 / 0.1**2), abs=1e-3)


def test_half_the_error_is_six_decibels():
    truth, network = heads(2), RRDBNet(**RRDB | {"channels": 4, "growth": 2})
    base = network.interpolation(degrade(truth, 2, "kspace"))
    assert measured((truth + base) / 2, truth, network)["gain_db"] == pytest.approx(20 * math.log10(2), abs=1e-3)
