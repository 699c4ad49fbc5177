from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medsynth.losses.regularization import gradient_penalty, interpolate_images, kl_divergence, path_lengths


def test_kl_by_hand():
    mean = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    log_variance = torch.tensor([[0.0, math.log(4)], [0.0, 0.0]])
    # features: (1/2 + 9/2) / 2 and ((4 - 1 - log 4) / 2 + 0) / 2
    assert kl_divergence(mean, log_variance).item() == pytest.approx(2.5 + (3 - math.log(4)) / 4)


def test_kl_is_that_of_torch():
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-5)


def test_kl_of_the_prior_is_zero():
    assert kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0


def test_free_nats_are_free_for_each_feature_and_have_no_gradient():
    mean = torch.tensor([[1.0, 3.0]], requires_grad=True)  # 0.5 and 4.5 nats
    divergence = kl_divergence(mean, torch.zeros(1, 2), free_nats=2.0)
    assert divergence.item() == pytest.approx(2 + 4.5)
    divergence.backward()
    assert mean.grad.tolist() == [[0, 3]]


class LinearCritic:
    """Its gradient has norm 3 for every image."""

    def __call__(self, images: Tensor) -> Tensor:
        slope = torch.tensor([1.0, -2.0, 0.0, 2.0]).view(1, 1, 2, 2)
        return (images * slope).sum(dim=(1, 2, 3)) + 7


@pytest.mark.parametrize(("target", "penalty"), [(0.0, 9.0), (1.0, 4.0), (3.0, 0.0), (5.0, 0.0)])
def test_gradient_penalty_by_hand_and_a_flatter_critic_is_no_fault(target, penalty):
    images = torch.randn(5, 1, 2, 2, requires_grad=True)
    assert gradient_penalty(LinearCritic(), images, target).item() == pytest.approx(penalty, abs=1e-5)


def test_gradient_penalty_is_of_each_image_before_the_mean():
    images = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1).requires_grad_()
    # the slopes of x^2 are 1 and 4
    assert gradient_penalty(lambda x: x.square().sum(dim=(1, 2, 3)), images, 1.0).item() == pytest.approx(4.5)


@pytest.mark.parametrize("target", [0.0, 0.2])
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(target):
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 4), torch.nn.Softplus(), torch.nn.Linear(4, 1))
    critic = critic.double()
    images = torch.randn(3, 1, 3, 3, dtype=torch.double, requires_grad=True)

    def penalty() -> Tensor:
        return gradient_penalty(lambda x: critic(x).squeeze(1), images, target)

    penalty().backward()
    weight, step = critic[1].weight, 1e-6
    for place in [(0, 0), (2, 5), (3, 8)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            ends.append(penalty().item())
            with torch.no_grad():
                weight[place] -= sign * step
        assert weight.grad[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-9)


def test_a_flat_critic_has_a_finite_penalty_gradient():
    weight = torch.zeros(1, requires_grad=True)
    images = torch.ones(2, 1, 2, 2, requires_grad=True)
    gradient_penalty(lambda x: (weight * x).sum(dim=(1, 2, 3)), images, 0.0).backward()
    assert weight.grad.isfinite()


def test_interpolations_lie_between_an_image_and_its_fake_with_one_share_an_image():
    real, fake = torch.zeros(50, 1, 3, 3), torch.ones(50, 1, 3, 3) * torch.arange(1, 51)[:, None, None, None]
    fake.requires_grad_()
    between = interpolate_images(real, fake)
    shares = (between / fake).flatten(1).detach()
    assert torch.allclose(shares, shares[:, :1].expand_as(shares))
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares[:, 0].std() > 0.1
    assert between.is_leaf
    assert between.requires_grad


def test_path_lengths_by_hand():
    # every pixel is the sum of an image's styles, weighted 1 and 2: J^T y is (1, 2) times the sum of y
    styles = torch.tensor([[[1.0, 0.5]], [[3.0, -1.0]]], requires_grad=True)
    images = (styles[:, 0] @ torch.tensor([1.0, 2.0]))[:, None, None, None].expand(-1, 1, 4, 4)
    torch.manual_seed(0)
    lengths = path_lengths(images, styles)
    torch.manual_seed(0)
    sums = (torch.randn(2, 1, 4, 4) / 4).sum(dim=(1, 2, 3))  # / sqrt(16 pixels)
    assert torch.allclose(lengths, math.sqrt(5) * sums.abs(), atol=1e-5)


def test_path_lengths_average_the_squares_over_layers_and_have_the_gradient_of_finite_differences():
    mix = torch.randn(3, 9, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    styles = torch.randn(2, 2, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2), requires_grad=True)

    def lengths(mix: Tensor) -> Tensor:
        torch.manual_seed(0)
        images = torch.tanh(styles.sum(dim=1) @ mix).view(2, 1, 3, 3)
        return path_lengths(images, styles).sum()

    assert torch.autograd.gradcheck(lengths, mix)
    torch.manual_seed(0)
    noise = torch.randn(2, 1, 3, 3, dtype=torch.double).view(2, 9) / 3
    slope = (noise * (1 - torch.tanh(styles.sum(dim=1) @ mix).square())) @ mix.T  # the same for both layers
    assert lengths(mix).item() == pytest.approx(slope.norm(dim=1).sum().item())


def test_r1_is_the_mean_squared_slope_at_real_images_by_finite_differences():
    torch.manual_seed(0)
    critic = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)
    ).double()
    images, step = torch.randn(2, 1, 2, 2, dtype=torch.double), 1e-6
    slopes = torch.zeros(2, 4)
    for pixel in range(4):
        moved = [images.flatten(1).clone() for _ in range(2)]
        moved[0][:, pixel] += step
        moved[1][:, pixel] -= step
        high, low = (critic(part.view_as(images)).squeeze(1) for part in moved)
        slopes[:, pixel] = (high - low).detach() / (2 * step)
    found = gradient_penalty(lambda x: critic(x).squeeze(1), images.requires_grad_(), target=0.0)
    assert found.item() == pytest.approx(slopes.square().sum(dim=1).mean().item(), rel=1e-5)
