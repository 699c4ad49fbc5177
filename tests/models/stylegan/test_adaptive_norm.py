from __future__ import annotations

import pytest
import torch

from medsynth.models.stylegan.adaptive_norm import _BatchedInstanceNorm, instance_norm


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


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    shapes = ((3, 5, 7, 6), (3, 5), (3, 5))
    return [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]


def batched(features, scale, shift):
    places = features.permute(0, 2, 3, 1)
    normed = _BatchedInstanceNorm.apply(places.flatten(1, 2), scale[:, None], shift[:, None])
    return normed.view(places.shape).permute(0, 3, 1, 2)


def test_the_fast_way_has_the_values_and_the_gradients_of_the_plain_one(inputs):
    fast, plain = batched(*inputs), instance_norm(*inputs)
    assert torch.allclose(fast, plain, atol=1e-5)
    direction = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad(fast, inputs, direction), torch.autograd.grad(plain, inputs, direction), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_bfloat16_is_near_float32(inputs):
    features, scale, shift = (tensor.float() for tensor in inputs)
    found = instance_norm(features.bfloat16(), scale.bfloat16(), shift.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), instance_norm(features, scale, shift), atol=0.05)


def test_a_flat_map_stays_finite():
    features = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    found = instance_norm(features, torch.ones(1, 1), torch.zeros(1, 1))
    found.square().sum().backward()
    assert not found.any()
    assert features.grad.isfinite().all()
