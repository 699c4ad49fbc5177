from __future__ import annotations

import pytest
import torch
from torch import nn

from medsynth.models.vqvae.priors.flow import CodeFlow

STAGE_ONE = {
    "image_size": 16,
    "channels": [8, 16],
    "residual_layers": 1,
    "num_codes": 20,
    "code_features": 4,
    "cosine": False,
}


@pytest.fixture
def network() -> CodeFlow:
    torch.manual_seed(0)
    network = CodeFlow(STAGE_ONE, [32, 32], 0.0, num_classes=2, use_position=True)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    latents = network.latents(torch.rand(30, 1, 16, 16) * 2 - 1).detach()
    network.stage_one.codebook.codes.copy_(latents.transpose(0, 1).flatten(1)[:, ::24].T)  # 20 of the 480 embeddings
    network.flow.fit(latents, torch.arange(30) % 2, torch.rand(30), torch.zeros(30, 0))
    return network.eval()


def test_codes_are_those_nearest_to_the_latents_that_the_flow_draws(network):
    latents, labels, positions, _ = network.flow.sample(3, 5, 1, 0.5)
    indices, *conditions = network.sample_codes(3, 5, 1, 0.5)
    codes = network.stage_one.codebook.codes
    distances = torch.cdist(latents.flatten(2).transpose(1, 2), codes.expand(3, -1, -1))
    assert torch.equal(indices.flatten(1), distances.argmin(dim=2))
    assert torch.equal(conditions[0], labels)
    assert conditions[1].tolist() == positions.tolist() == [0.5] * 3
    assert len(indices.unique()) > 1


def test_images_are_the_decoded_codes_and_of_their_seed(network):
    images, *_ = network.sample(4, seed=1)
    torch.rand(3)
    assert torch.equal(network.sample(4, seed=1)[0], images)
    assert not torch.equal(network.sample(4, seed=2)[0], images)
    assert torch.equal(network.decode(network.sample_codes(4, seed=1)[0]), images)


def test_latents_are_the_embeddings_before_they_are_codes_of_the_flow_s_grid(network):
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    latents = network.latents(images)
    assert latents.shape == (2, *network.flow.shape)
    assert torch.equal(latents, network.stage_one.encode(images))
    codes = network.stage_one.codebook.codes
    assert torch.cdist(latents.flatten(2).transpose(1, 2), codes.expand(2, -1, -1)).min() > 0


def test_reconstructions_are_stage_one_s_whatever_the_conditions(network):
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    assert torch.equal(network(images, torch.ones(2), torch.rand(2)), network.stage_one(images))


def test_the_parameters_are_those_of_the_flow_alone(network):
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"flow"}
