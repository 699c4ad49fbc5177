from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medsynth.models.vqvae.priors.gan import CodeDiscriminator, CodeGan, halvings

STAGE_ONE = {
    "image_size": 32,
    "channels": [8, 16],
    "residual_layers": 1,
    "num_codes": 20,
    "code_features": 4,
    "cosine": False,
}
FEATURES = 6


@pytest.fixture
def build() -> Callable[..., CodeGan]:
    """A small prior of two classes with random weights."""

    def make(image_size: int = 32) -> CodeGan:
        torch.manual_seed(0)
        network = CodeGan(STAGE_ONE | {"image_size": image_size}, 16, FEATURES, 2, True)
        network.conditions.fit(torch.arange(60) % 2, torch.rand(60))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        return network

    return make


def test_codes_chosen_are_rows_of_the_codebook_exactly_and_the_gradient_passes(build):
    network = build()
    logits = network.logits(torch.randn(3, FEATURES), torch.tensor([0, 1, -1]), torch.tensor([0.2, 0.8, torch.nan]))
    logits.retain_grad()
    codes, indices = network.choose(logits)
    assert torch.equal(codes, network.codes[indices].movedim(-1, 1))
    (codes * torch.randn_like(codes)).sum().backward()
    assert (logits.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert all(p.grad is not None for name, p in network.named_parameters() if name.startswith(("generator", "out")))


def test_the_straight_through_gradient_is_that_of_the_softmax(build):
    network = build()
    logits = torch.randn(1, 1, 1, 20, requires_grad=True)
    weights = torch.randn(4)
    torch.manual_seed(3)
    codes, _ = network.choose(logits)
    (codes.flatten() * weights).sum().backward()
    torch.manual_seed(3)
    noise = -(-torch.rand(1, 1, 1, 20).log()).log()
    twin = logits.detach().clone().requires_grad_()
    ((twin + noise).softmax(dim=-1).flatten() @ network.codes @ weights).backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_codes_are_drawn_as_often_as_their_logits_say(build):
    network = build()
    shares = torch.tensor([0.7, 0.2, 0.1, *[1e-9] * 17])
    torch.manual_seed(0)
    _, indices = network.choose(shares.log().expand(2000, 1, 1, 20))
    torch.testing.assert_close(indices.flatten().bincount(minlength=20) / 2000, shares, atol=0.04, rtol=0)


def test_scaled_codes_have_unit_deviation_over_the_codebook(build):
    network = build()
    scaled = network.scaled(network.codes[:, :, None, None]).flatten(1)
    torch.testing.assert_close(scaled.std(dim=0), torch.ones(4))


def test_different_maps_are_encoded_differently(build):
    network = build()
    mean, log_variance = network.encode(network.stage_one.embed(torch.randint(20, (2, 8, 8))))
    assert mean.shape == log_variance.shape == (2, FEATURES)
    assert (mean[0] - mean[1]).abs().max() > 1e-4


def test_samples_depend_on_the_seed_alone(build):
    network = build()
    images, labels, positions = network.sample(5, seed=3)
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(network.sample(5, seed=3), (images, labels, positions), strict=True))
    assert not torch.equal(network.sample(5, seed=4)[0], images)
    assert images.shape == (5, 1, 32, 32)
    assert images.abs().max() <= 1
    assert set(network.sample(100, seed=0)[1].tolist()) == {0, 1}


def test_class_and_position_asked_for_are_given_and_matter(build):
    network = build()
    _, labels, positions = network.sample_codes(4, seed=0, label=1, position=0.25)
    assert labels.tolist() == [1] * 4
    torch.testing.assert_close(positions, torch.full((4,), 0.25))
    latent = torch.randn(2, FEATURES)
    torch.manual_seed(0)
    one = network.logits(latent, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))
    torch.manual_seed(0)
    other = network.logits(latent, torch.tensor([1, 1]), torch.tensor([0.5, 0.5]))
    assert not torch.equal(one, other)


def test_stage_one_has_no_parameters_and_stays_in_evaluation_mode(build):
    network = build().train()
    assert not list(network.stage_one.parameters())
    assert not network.stage_one.training
    assert all(p.requires_grad for p in network.parameters())
    assert {name for name in network.state_dict() if name.startswith("stage_one.decoder")}


def test_the_critic_gives_a_score_each_and_sees_class_and_position():
    torch.manual_seed(0)
    critic = CodeDiscriminator(32, 4, 4, 16, 2, True)
    codes, label, position = torch.randn(4, 4, 8, 8), torch.zeros(4, dtype=torch.long), torch.full((4,), 0.5)
    scores = critic(codes, label, position)
    assert scores.shape == (4,)
    assert not torch.equal(scores, critic(codes, label + 1, position))
    assert not torch.equal(scores, critic(codes, label, 2 * position))


def test_the_critic_sees_when_all_maps_are_alike():
    torch.manual_seed(0)
    critic = CodeDiscriminator(32, 4, 4, 16, 0, False)
    maps = torch.randn(4, 4, 8, 8)
    alone = critic(maps[:1])
    among_others, among_copies = critic(maps)[:1], critic(maps[:1].expand(4, -1, -1, -1))[:1]
    torch.testing.assert_close(among_copies, alone)
    assert (among_others - alone).abs() > 1e-5


@pytest.mark.parametrize(("size", "times"), [(16, 2), (8, 1), (12, 1), (6, 0), (4, 0), (32, 3)])
def test_grids_halve_down_to_four_places_or_an_odd_number(size, times):
    assert halvings(size) == times


@pytest.mark.parametrize("image_size", [24, 28, 48])
def test_other_grids_work_too(build, image_size):
    network, critic = build(image_size=image_size), CodeDiscriminator(image_size, 4, 4, 16, 0, False)
    codes, _, _ = network.sample_codes(2, seed=0)
    assert network.decode(codes).shape == (2, 1, image_size, image_size)
    assert network.encode(network.stage_one.embed(codes))[0].shape == (2, FEATURES)
    assert critic(network.stage_one.embed(codes)).shape == (2,)
