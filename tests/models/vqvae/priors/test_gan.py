from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medsynth.errors import MedsynthError
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
    """A small prior, fitted to random images."""

    def make(assignment: str = "gumbel", seed: int = 0, **options) -> CodeGan:
        torch.manual_seed(seed)
        network = CodeGan(STAGE_ONE, 16, FEATURES, 2, mixture_components=2, assignment=assignment, **options)
        images = nn.functional.interpolate(torch.rand(60, 1, 4, 4) * 2 - 1, size=32, mode="bilinear")
        network.components.fit(images)
        network.stage_one.codebook.start(network.stage_one.encode(images), seed=0)
        indices, labels, positions = network.stage_one.encode_indices(images), torch.arange(60) % 2, torch.rand(60)
        network.fit(indices, network.components.scores(images), labels, positions, seed=0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        return network

    return make


@pytest.mark.parametrize("assignment", ["gumbel", "snap"])
def test_codes_chosen_are_rows_of_the_codebook_exactly_and_the_gradient_passes(build, assignment):
    network = build(assignment)
    proposal = network(torch.randn(3, FEATURES), torch.tensor([0, 1, -1]), torch.tensor([0.2, 0.8, torch.nan]))
    proposal.retain_grad()
    codes, indices = network.choose(proposal, temperature=0.7)
    assert torch.equal(codes, network.codes[indices].movedim(-1, 1))
    (codes * torch.randn_like(codes)).sum().backward()
    assert (proposal.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert all(p.grad is not None for name, p in network.named_parameters() if "generator" in name)


def test_the_straight_through_gradient_is_that_of_the_softmax(build):
    network = build()
    logits = torch.randn(1, 1, 1, 20, requires_grad=True)
    weights = torch.randn(4)
    torch.manual_seed(3)
    codes, _ = network.choose(logits, temperature=0.5)
    (codes.flatten() * weights).sum().backward()
    torch.manual_seed(3)
    noise = -(-torch.rand(1, 1, 1, 20).log()).log()
    twin = logits.detach().clone().requires_grad_()
    (((twin + noise) / 0.5).softmax(dim=-1).flatten() @ network.codes @ weights).backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_codes_are_drawn_as_often_as_their_logits_say(build):
    network = build()
    shares = torch.tensor([0.7, 0.2, 0.1, *[1e-9] * 17])
    torch.manual_seed(0)
    _, indices = network.choose(shares.log().expand(2000, 1, 1, 20))
    torch.testing.assert_close(indices.flatten().bincount(minlength=20) / 2000, shares, atol=0.04, rtol=0)


def test_snapping_takes_the_nearest_code(build):
    network = build("snap")
    aims = torch.randn(2, 4, 8, 8)
    _, indices = network.choose(aims)
    assert torch.equal(indices, torch.cdist(aims.movedim(1, -1).flatten(0, 2), network.codes).argmin(1).view(2, 8, 8))


def test_latent_vectors_are_drawn_wider_where_new_images_are_less_varied_than_real_ones(build):
    network = build()
    scores = torch.randn(64, FEATURES)
    shortened = scores * torch.tensor([0.5, *[1.0] * (FEATURES - 1)])
    for _ in range(20):
        network.follow(network.components.images(shortened), network.components.images(scores))
    gain = 1 + (2 - 1) * (1 - 0.99**20)
    torch.testing.assert_close(network.gain, torch.tensor([gain, *[1.0] * (FEATURES - 1)]), rtol=1e-3, atol=1e-3)
    before = network.gain.clone()
    network.follow(torch.empty(0, 1, 32, 32), network.components.images(scores))
    assert torch.equal(network.gain, before)
    torch.manual_seed(0)
    wide = network.latents(200)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(wide, network.density.sample(200)[0] * network.gain)


def test_half_of_the_variety_that_is_missing_is_made_up(build):
    network = build()
    scores = torch.randn(64, FEATURES)
    halved = torch.tensor([0.5, *[1.0] * (FEATURES - 1)])
    for _ in range(600):
        network.follow(network.components.images(scores * halved * network.gain), network.components.images(scores))
    assert network.gain[0].item() == pytest.approx(2**0.5, abs=0.02)


def test_before_training_the_likeliest_codes_are_near_those_of_the_image():
    torch.manual_seed(0)
    network = CodeGan(STAGE_ONE, 16, 12)
    images = nn.functional.interpolate(torch.rand(300, 1, 3, 3) * 2 - 1, size=32, mode="bilinear")
    network.components.fit(images)
    network.stage_one.codebook.start(network.stage_one.encode(images), seed=0)
    indices, latents = network.stage_one.encode_indices(images), network.components.scores(images)
    network.fit(indices, latents, torch.full((300,), -1), torch.full((300,), torch.nan), seed=0)
    guess = network(latents, None, None).argmax(dim=-1)
    shuffled = guess[torch.randperm(300)]
    error, chance = (
        (network.stage_one.embed(codes) - network.stage_one.embed(indices)).square().mean()
        for codes in (guess, shuffled)
    )
    assert error < 0.5 * chance


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
    one = network(latent, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))
    torch.manual_seed(0)
    other = network(latent, torch.tensor([1, 1]), torch.tensor([0.5, 0.5]))
    assert not torch.equal(one, other)


def test_stage_one_has_no_parameters_and_stays_in_evaluation_mode(build):
    network = build().train()
    assert not list(network.stage_one.parameters())
    assert not network.stage_one.training
    assert all(p.requires_grad for p in network.parameters())
    assert {name for name in network.state_dict() if name.startswith("stage_one.decoder")}


def test_another_assignment_is_refused():
    with pytest.raises(MedsynthError, match="assignment is 'nearest': choose one of gumbel, snap"):
        CodeGan(STAGE_ONE, assignment="nearest")


def test_the_critics_give_a_score_each_and_see_class_and_position():
    torch.manual_seed(0)
    critics = CodeDiscriminator(32, 4, 4, channels=16, num_classes=2)
    codes, images = torch.randn(4, 4, 8, 8), torch.randn(2, 1, 32, 32)
    of_codes, of_images = critics.features(codes, images)
    position = torch.full((4,), 0.5)
    scores = critics.codes.scores(of_codes, torch.zeros(4, dtype=torch.long), position)
    assert scores.shape == (4,)
    assert not torch.equal(scores, critics.codes.scores(of_codes, torch.ones(4, dtype=torch.long), position))
    assert not torch.equal(scores, critics.codes.scores(of_codes, torch.zeros(4, dtype=torch.long), 2 * position))
    assert critics.images.scores(of_images, None, None).shape == (2,)


def test_a_critic_sees_when_all_maps_are_alike():
    torch.manual_seed(0)
    critic = CodeDiscriminator(32, 4, 4, channels=16, use_position=False).codes
    maps = torch.randn(4, 4, 8, 8)
    alone = critic(maps[:1])
    among_others, among_copies = critic(maps)[:1], critic(maps[:1].expand(4, -1, -1, -1))[:1]
    torch.testing.assert_close(among_copies, alone)
    assert (among_others - alone).abs() > 1e-5


@pytest.mark.parametrize(("size", "times"), [(16, 2), (8, 1), (12, 1), (6, 0), (4, 0), (32, 3)])
def test_grids_halve_down_to_four_places_or_an_odd_number(size, times):
    assert halvings(size) == times


@pytest.mark.parametrize("image_size", [24, 48])
def test_other_grids_work_too(image_size):
    network = CodeGan(STAGE_ONE | {"image_size": image_size}, 16, FEATURES)
    critics = CodeDiscriminator(image_size, 4, 4, 16)
    images = network.sample(2, seed=0)[0]
    assert images.shape == (2, 1, image_size, image_size)
    codes = torch.randn(2, 4, image_size // 4, image_size // 4)
    assert len(critics.features(codes, images)) == 2
