from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.superres.degradation import degrade


@pytest.mark.parametrize("kind", ["kspace", "area"])
def test_the_mean_brightness_stays(kind):
    fine = torch.rand(2, 1, 24, 36) * 2 - 1
    assert degrade(fine, 4, kind).shape == (2, 1, 6, 9)
    assert torch.allclose(degrade(fine, 4, kind).mean((-1, -2)), fine.mean((-1, -2)), atol=1e-5)


def test_area_is_the_mean_of_each_square():
    assert degrade(torch.tensor([[1.0, 0.0], [-1.0, 0.4]]), 2, "area").item() == pytest.approx(0.1)


def test_k_space_truncation_rings_beside_an_edge_and_area_averaging_does_not():
    edge = torch.full((32, 32), -1.0)
    edge[:, 8:24] = 0.5
    assert degrade(edge, 2, "kspace").max() > 0.51
    assert degrade(edge, 2, "area").max() == 0.5


def test_noise_has_the_deviation_asked_for_and_magnitudes_are_not_negative():
    torch.manual_seed(0)
    tissue, air = torch.full((4, 1, 64, 64), 0.6), torch.full((4, 1, 64, 64), -1.0)
    for kind in ("kspace", "area"):
        assert degrade(tissue, 2, kind, noise=(0.05, 0.05)).std() == pytest.approx(0.1, rel=0.05)
    noisy = degrade(air, 2, "kspace", noise=(0.05, 0.05)) + 1
    assert noisy.min() >= 0
    assert noisy.mean() == pytest.approx(0.1 * (torch.pi / 2) ** 0.5, rel=0.05)  # of a Rayleigh distribution


def test_blur_has_the_width_asked_for_and_is_drawn_image_by_image():
    torch.manual_seed(0)
    dot = torch.zeros(2, 1, 41, 41)
    dot[:, :, 20, 20] = 1
    fine = degrade(torch.nn.functional.pad(dot, (0, 1, 0, 1)), 2, "area", blur=(1.0, 3.0)) * 4
    offset = torch.arange(21) * 2 - 19.5
    variances = (fine.sum((1, 2)) * offset**2).sum(-1)
    assert all(1.0 < variance < 9.6 for variance in variances)
    assert abs(variances[0] - variances[1]) > 0.1


@pytest.mark.parametrize("weights", [[], [0, 0.0], [1, -0.1, 1], [1, float("nan")], [1, float("inf")], [1, "2"], [[1]]])
def test_weights_that_are_no_profile_are_told_with_what_is_needed(weights):
    with pytest.raises(MedsynthError) as raised:
        degrade(torch.zeros(1, 1, 16, 16), 2, weights)
    assert str(raised.value) == (
        f"degradation is {weights!r}: give weights of equally wide parts across a slice, finite numbers of 0 or more, "
        "not all 0, such as [0.1, 0.4, 1.0, 0.4, 0.1]"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scale": 3}, "scale is 3: choose 2 or 4"),
        ({"scale": 8}, "scale is 8: choose 2 or 4"),
        ({"kind": "blur"}, "choose one of kspace, area"),
        ({"noise": [0.2, 0.1]}, "noise is [0.2, 0.1]"),
        ({"blur": 1.0}, "blur is 1.0: give null or [low, high]"),
        ({"images": torch.zeros(1, 1, 15, 16)}, "15 x 16 pixels are no multiples of scale 2"),
    ],
)
def test_what_cannot_be_done_is_told(options, told):
    with pytest.raises(MedsynthError) as raised:
        degrade(**{"images": torch.zeros(1, 1, 16, 16), "scale": 2, "kind": "kspace"} | options)
    assert told in str(raised.value)
