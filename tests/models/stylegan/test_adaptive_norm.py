from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsynth.models.stylegan.network import AdaptiveInstanceNorm


def instance_norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Features with the deviations `scale` and the means `shift`."""
    norm = AdaptiveInstanceNorm(scale.shape[1], 2 * scale.shape[1])
    norm.affine = nn.Identity()
    return norm(features, torch.cat([scale - 1, shift], dim=1))


def test_adain_by_hand():
    features = torch.tensor(
        [[[[1.0, 3.0], [1.0, 3.0]]], [[[0.0, 0.0], [0.0, 8.0]]]]
    )  # means 2, 2; deviations 1, sqrt 12
    found = instance_norm(features, torch.tensor([[10.0], [1.0]]), torch.tensor([[5.0], [-1.0]]))
    assert found[0, 0].flatten().tolist() == pytest.approx([-5, 15, -5, 15], abs=1e-3)
    low, high = -1 - 2 / 12**0.5, -1 + 6 / 12**0.5
    assert found[1, 0].flatten().tolist() == pytest.approx([low, low, low, high], abs=1e-4)


def test_each_map_gets_the_mean_and_deviation_of_its_style_whatever_it_had():
    torch.manual_seed(0)
    scale, shift = torch.rand(3, 4) + 0.5, torch.randn(3, 4)
    found = instance_norm(torch.randn(3, 4, 16, 16) * 50 + 20, scale, shift)
    assert torch.allclose(found.mean(dim=(2, 3)), shift, atol=1e-4)
    assert torch.allclose(found.std(dim=(2, 3), correction=0), scale, rtol=1e-4)


def test_bfloat16_is_near_float32():
    torch.manual_seed(0)
    features, scale, shift = torch.randn(3, 5, 7, 6), torch.randn(3, 5), torch.randn(3, 5)
    found = instance_norm(features.bfloat16(), scale, shift)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), instance_norm(features, scale, shift), atol=0.05)


def test_it_can_be_differentiated_twice():
    torch.manual_seed(0)
    shapes = ((2, 3, 4, 4), (2, 3), (2, 3))
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradgradcheck(instance_norm, inputs)


def test_a_flat_map_stays_finite():
    features = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    found = instance_norm(features, torch.ones(1, 1), torch.zeros(1, 1))
    found.square().sum().backward()
    assert found.abs().max() < 1e-3
    assert features.grad.isfinite().all()
