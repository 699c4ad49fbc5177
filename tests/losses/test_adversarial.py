from __future__ import annotations

import math

import pytest
import torch

from medsynth.losses.adversarial import (
    critic_wasserstein,
    discriminator_hinge,
    discriminator_least_squares,
    discriminator_logistic,
    generator_hinge,
    generator_least_squares,
    generator_logistic,
    generator_wasserstein,
)


def test_wasserstein_losses_by_hand():
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([0.5, -1.5, 4.0])
    assert critic_wasserstein(real, fake).item() == pytest.approx(1.0 - 2.0)
    assert generator_wasserstein(fake).item() == pytest.approx(-1.0)


def test_the_critic_raises_real_scores_and_lowers_fake_ones_and_the_generator_raises_them():
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(2, requires_grad=True)
    critic_wasserstein(real, fake).backward()
    assert real.grad.tolist() == [-0.25] * 4
    assert fake.grad.tolist() == [0.5] * 2
    fake.grad = None
    generator_wasserstein(fake).backward()
    assert fake.grad.tolist() == [-0.5] * 2


def test_logistic_by_hand():
    scores = torch.tensor([0.0, math.log(3)])  # the discriminator's odds of real: 1 and 3
    assert discriminator_logistic(scores, scores).item() == pytest.approx(math.log(2 * 4 / 3) / 2 + math.log(2 * 4) / 2)
    assert generator_logistic(scores).item() == pytest.approx(math.log(2 * 4 / 3) / 2)


def test_the_logistic_generator_learns_most_where_it_fails():
    fake = torch.tensor([-10.0, 10.0], requires_grad=True)
    generator_logistic(fake).backward()
    assert fake.grad.tolist() == pytest.approx([-0.5, 0], abs=1e-3)


def test_least_squares_by_hand():
    real, fake = [torch.tensor([1.0, 3.0]), torch.tensor([2.0])], [torch.tensor([0.0, 2.0]), torch.tensor([1.0])]
    assert discriminator_least_squares(real, fake).item() == pytest.approx(((2 + 2) / 2 + (1 + 1) / 2) / 2)
    assert generator_least_squares(fake).item() == pytest.approx((1 + 0) / 2)


def test_hinge_by_hand():
    real, fake = [torch.tensor([2.0, 0.0])], [torch.tensor([-2.0, 1.0])]
    assert discriminator_hinge(real, fake).item() == pytest.approx((0 + 1) / 2 + (0 + 2) / 2)
    assert generator_hinge(fake).item() == pytest.approx(0.5)
