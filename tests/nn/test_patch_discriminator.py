from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.nn.patch_discriminator import Discriminators, MultiScalePatchDiscriminator


def test_each_scale_sees_half_the_grid_of_the_one_before():
    found = MultiScalePatchDiscriminator(channels=8, num_layers=1, num_scales=3)(torch.rand(2, 1, 64, 48))
    assert [features[0].shape[2:] for _, features in found] == [(32, 24), (16, 12), (8, 6)]
    assert [features[0].shape[1] for _, features in found] == [8, 8, 8]
    assert all(scores.shape[:2] == (2, 1) for scores, _ in found)


def test_a_coarse_scale_sees_means_of_the_image():
    torch.manual_seed(0)
    network = MultiScalePatchDiscriminator(channels=8, num_layers=1, num_scales=2).eval()
    image = torch.full((1, 1, 32, 32), 0.3)
    chess = image + 0.5 * (-1.0) ** (torch.arange(32)[:, None] + torch.arange(32))
    (fine, _), (coarse, _) = network(image)
    (fine_chess, _), (coarse_chess, _) = network(chess)
    middle = (..., slice(2, 5), slice(2, 5))  # away from the edges, a mean of 3 x 3 takes all but a ninth of it away
    assert (coarse - coarse_chess)[middle].abs().max() < 0.3 * (fine - fine_chess).abs().max()


@pytest.mark.parametrize(("pixels", "scales"), [(12, 1), (24, 2), (50, 3), (128, 4)])
def test_scales_without_room_for_a_patch_are_left_out(pixels, scales):
    network = MultiScalePatchDiscriminator(channels=4, num_layers=2, num_scales=4, norm="instance")
    assert len(network(torch.rand(1, 1, pixels, pixels))) == scales


def test_spectral_normalization_bounds_every_layer():
    network = MultiScalePatchDiscriminator(channels=4, num_layers=2, num_scales=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(100)
        for _ in range(20):  # power iterations
            network(torch.rand(1, 1, 16, 16))
    for module in network.eval().modules():
        if isinstance(module, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2).item() == pytest.approx(1, rel=0.05)


def test_the_two_domains_share_no_weight():
    network = Discriminators(4, 1, 1, "spectral")
    image = torch.rand(1, 1, 16, 16)
    assert not torch.equal(network.source(image)[0][0], network.target(image)[0][0])


@pytest.mark.parametrize("mistake", [{"norm": "batch"}, {"num_scales": 0}])
def test_what_cannot_be_built_is_told(mistake):
    with pytest.raises(MedsynthError, match="discriminator"):
        MultiScalePatchDiscriminator(**{"channels": 4, "num_layers": 1, "num_scales": 1} | mistake)
