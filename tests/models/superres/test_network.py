from __future__ import annotations

import pytest
import torch
from small_networks import RRDB

from medsynth.errors import MedsynthError
from medsynth.models.superres.network import ResidualBlock, RRDBNet
from medsynth.nn.resampling import average, spline, truncate, zero_fill

ORIGINAL = RRDB | {"scale": 4, "channels": 64, "blocks": 23, "growth": 32, "upsampling": "nearest"}


def small(**options) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(**RRDB | options)


def shaken(**options) -> RRDBNet:
    """A network whose last layer is no longer zero."""
    network = small(**options)
    torch.nn.init.normal_(network.upsample.last.weight, std=0.1)
    return network


@pytest.mark.parametrize("upsampling", ["subpixel", "nearest"])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(16, 24), (15, 21), (5, 8)])
def test_an_untrained_network_gives_its_base_for_any_size(upsampling, scale, size):
    coarse = torch.rand(2, 1, *size) * 2 - 1
    options = {"scale": scale, "upsampling": upsampling}
    assert torch.allclose(small(**options)(coarse), zero_fill(coarse, scale), atol=1e-5)
    plain = small(**options, degradation="area", consistent=False)
    assert torch.equal(plain(coarse), spline(coarse, scale))


def test_the_original_has_the_parameters_of_the_paper():
    network = RRDBNet(**ORIGINAL)
    first_and_last_in_colour = 2 * 64 * 9 + 2 * 64 * 9 + 2  # three channels in and out, instead of one
    assert sum(p.numel() for p in network.parameters()) + first_and_last_in_colour == 16_697_987


def test_a_residual_block_adds_back_what_two_convolutions_make_by_hand():
    block = ResidualBlock(1, residual_scale=0.5)
    for conv, weight in ((block.widen, 2.0), (block.fuse, 3.0)):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
        conv.weight.data[0, 0, 1, 1] = weight
    features = torch.tensor([[[[1.0, -1.0]]]])
    assert block(features).flatten().tolist() == [1 + 0.5 * 6, -1]


@pytest.mark.parametrize(("degradation", "down"), [("kspace", truncate), ("area", average)])
def test_the_result_agrees_with_what_was_measured(degradation, down):
    coarse = torch.rand(2, 1, 15, 21) * 2 - 1
    fine = shaken(degradation=degradation)(coarse)
    assert torch.allclose(down(fine, 2), coarse, atol=1e-5)
    without = shaken(degradation=degradation, consistent=False)(coarse)
    assert not torch.allclose(down(without, 2), coarse, atol=1e-2)


@pytest.mark.parametrize(("degradation", "down"), [("kspace", truncate), ("area", average)])
@pytest.mark.parametrize("scale", [2, 4])
def test_agreement_never_raises_the_error(degradation, down, scale):
    truth = torch.rand(3, 1, 32, 48) * 2 - 1
    coarse = down(truth, scale)
    errors = [
        (shaken(degradation=degradation, scale=scale, consistent=consistent)(coarse) - truth).square().mean((1, 2, 3))
        for consistent in (False, True)
    ]
    assert (errors[1] < errors[0]).all()


@pytest.mark.parametrize(("trunk", "layers"), [("dense", 15), ("residual", 2)])
def test_detail_is_local_so_that_tiles_can_be_put_together(trunk, layers):
    network = shaken(trunk=trunk)
    coarse = torch.rand(1, 1, 48, 40)
    reach = 1 + layers + 2  # pixels that the first layer, the trunk's and the last two layers see
    part = network.detail(coarse[..., :32, :])
    assert torch.allclose(
        network.detail(coarse)[..., : 2 * (32 - reach), :], part[..., : 2 * (32 - reach), :], atol=1e-6
    )


def test_only_the_middle_slice_is_the_one_made_finer():
    coarse = torch.rand(2, 3, 8, 8)
    network = small(neighbours=1)
    assert torch.allclose(network(coarse), zero_fill(coarse[:, 1:2], 2), atol=1e-5)
    network = shaken(neighbours=1)
    other = coarse.clone()
    other[:, 0] = 0
    assert not torch.allclose(network(coarse), network(other))


def test_every_layer_takes_part_once_the_last_has_moved():
    network = shaken()
    network(torch.rand(1, 1, 8, 8)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [({"scale": 3}, "scale is 3: choose 2 or 4"), ({"degradation": "blur"}, "'blur': choose one of kspace, area")],
)
def test_what_cannot_be_built_is_told(options, told):
    with pytest.raises(MedsynthError, match=told):
        small(**options)
