from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medsynth.nn.equalized import EqualizedConv2d, EqualizedLinear, pixel_norm


def test_a_linear_layer_scales_its_weights_by_the_fan_in_each_time():
    layer = EqualizedLinear(4, 2, gain=1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 2.0]]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    # 1 / sqrt(4) = 0.5 times (1 + 2 + 3 + 4) and 2, and the bias as it is
    assert layer(torch.ones(1, 4)).tolist() == [[5.5, 1.0]]


def test_a_convolution_scales_its_weights_by_channels_and_kernel():
    layer = EqualizedConv2d(4, 1, kernel=3, gain=1.0)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    # in the middle 36 ones times 1 / sqrt(36), in a corner 16 of them
    found = layer(torch.ones(1, 4, 3, 3))[0, 0]
    assert found[1, 1].item() == pytest.approx(6.0)
    assert found[0, 0].item() == pytest.approx(16 / 6)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(1, 1, 8), (3, 1, 8), (4, 2, 4)])
def test_a_convolution_keeps_or_halves_the_grid(kernel, stride, side):
    assert EqualizedConv2d(2, 3, kernel, stride)(torch.zeros(1, 2, 8, 8)).shape == (1, 3, side, side)


def test_weights_start_normal_and_the_variance_survives_a_leaky_relu():
    torch.manual_seed(0)
    layer = EqualizedLinear(512, 512)
    assert layer.weight.std().item() == pytest.approx(1.0, abs=0.01)
    found = F.leaky_relu(layer(torch.randn(256, 512)), 0.2)
    assert found.square().mean().item() == pytest.approx(1.04, abs=0.05)  # (1 + 0.2 ** 2) / 2 times the gain's 2


def test_adam_moves_wide_and_narrow_layers_at_the_same_relative_speed():
    for features in (4, 400):
        torch.manual_seed(0)
        layer = EqualizedLinear(features, 8)
        before = layer.weight.detach().clone()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        layer(torch.randn(3, features)).square().sum().backward()
        optimizer.step()
        assert (layer.weight - before).abs().mean().item() == pytest.approx(0.01, rel=1e-3)


def test_a_layer_with_a_hundredth_of_the_learning_rate_computes_the_same_and_moves_a_hundredth():
    outputs = []
    for share in (1.0, 0.01):
        torch.manual_seed(0)
        layer = EqualizedLinear(16, 4, bias=1.0, learning_rate=share)
        inputs = torch.randn(8, 16)
        start = layer(inputs).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        layer(inputs).sum().backward()
        optimizer.step()
        outputs.append((start, layer(inputs).detach() - start))
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5)
    assert torch.allclose(outputs[0][1], 100 * outputs[1][1], rtol=1e-2, atol=1e-3)


def test_pixel_norm_by_hand():
    found = pixel_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert found[0].tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])
    assert found[1].tolist() == [0, 0]
