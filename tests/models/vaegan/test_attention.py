from __future__ import annotations

import math

import pytest
import torch

from medsynth.models.vaegan.attention import ChannelAttention, ChannelSpatialAttention, SpatialAttention


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def with_parameters(module: torch.nn.Module, weight: float, bias: float) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, bias if parameter.dim() == 1 else weight)
    return module


@pytest.mark.parametrize("attention", [ChannelAttention(6), SpatialAttention(), ChannelSpatialAttention(6)])
def test_gates_only_ever_weaken_a_feature(attention):
    torch.manual_seed(0)
    features = torch.randn(3, 6, 7, 9)
    gates = attention(features) / features
    assert gates.shape == features.shape
    assert gates.min() > 0
    assert gates.max() < 1


def test_channel_gates_by_hand_for_a_constant():
    attention = with_parameters(ChannelAttention(4, reduction=1), weight=1.0, bias=0.0)
    # mean and maximum are both 0.01: four hidden units of 4 x 0.01 each, 0.16 from either, 0.32 together
    gated = attention(torch.full((1, 4, 5, 3), 0.01))
    assert torch.allclose(gated, torch.tensor(0.01 * sigmoid(0.32)))


def test_spatial_gates_by_hand_for_a_constant():
    attention = with_parameters(SpatialAttention(), weight=1.0, bias=0.0)
    gated = attention(torch.full((1, 3, 9, 9), 0.01))
    assert gated[0, 0, 4, 4].item() == pytest.approx(0.01 * sigmoid(2 * 49 * 0.01))
    assert gated[0, 0, 0, 0].item() == pytest.approx(0.01 * sigmoid(2 * 16 * 0.01))  # a corner sees 4 x 4 places


def test_channel_gates_tell_channels_apart_and_spatial_gates_places():
    torch.manual_seed(0)
    channel, spatial = torch.ones(1, 4, 6, 6), torch.ones(1, 4, 6, 6)
    channel[:, 0] = 5.0
    gates = ChannelAttention(4)(channel) / channel
    assert torch.allclose(gates, gates[:, :, :1, :1].expand_as(gates))
    assert gates[0, :, 0, 0].std() > 1e-3
    spatial[:, :, 0] = 5.0
    gates = SpatialAttention()(spatial) / spatial
    assert torch.allclose(gates, gates[:, :1].expand_as(gates))
    assert gates[0, 0].std() > 1e-3


def test_both_gates_take_gradients():
    torch.manual_seed(0)
    attention = ChannelSpatialAttention(8)
    attention(torch.randn(4, 8, 8, 8)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attention.parameters())
