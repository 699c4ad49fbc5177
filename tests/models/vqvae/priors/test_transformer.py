from __future__ import annotations

import pytest
import torch
from torch import nn

from medsynth.errors import MedsynthError
from medsynth.models.vqvae.priors.transformer import CodeTransformer

STAGE_ONE = {
    "image_size": 16,
    "channels": [8, 16],
    "residual_layers": 1,
    "num_codes": 20,
    "code_features": 4,
    "cosine": False,
}


@pytest.fixture
def network() -> CodeTransformer:
    torch.manual_seed(0)
    network = CodeTransformer(STAGE_ONE, 16, 2, 2, dropout=0.1, num_classes=2, use_position=True)
    network.conditions.fit(torch.tensor([0, 1, 1, -1]), torch.tensor([0.1, 0.5, 0.9, 0.3]))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@torch.no_grad()
def test_drawing_with_memory_sees_what_the_whole_network_sees(network):
    indices, labels, positions = network.sample_codes(3, seed=0)
    whole = network.logits(indices, labels, positions)
    memory = [torch.empty(2, 3, 2, 16, 8) for _ in range(2)]
    tokens = network.first_tokens(labels, positions)
    for place in range(16):
        torch.testing.assert_close(network.next_logits(tokens, place, memory), whole[:, place], atol=1e-4, rtol=1e-4)
        tokens = indices.flatten(1)[:, place]


@torch.no_grad()
def test_a_code_depends_on_none_behind_it(network):
    indices = torch.randint(20, (1, 4, 4))
    changed = indices.clone()
    changed[0, 2, 1] = (changed[0, 2, 1] + 1) % 20  # the tenth
    labels, positions = torch.tensor([0]), torch.tensor([0.5])
    one, other = network.logits(indices, labels, positions), network.logits(changed, labels, positions)
    torch.testing.assert_close(one[:, :10], other[:, :10])
    assert not torch.allclose(one[:, 10:], other[:, 10:])


def test_surprise_is_the_mean_cross_entropy(network):
    indices, labels, positions = torch.randint(20, (2, 4, 4)), torch.tensor([0, 1]), torch.tensor([0.2, 0.4])
    chances = network.logits(indices, labels, positions).softmax(dim=2)
    picked = chances.gather(2, indices.flatten(1)[..., None]).squeeze(2)
    torch.testing.assert_close(network.negative_log_likelihood(indices, labels, positions), -picked.log().mean(dim=1))


def test_every_class_and_position_has_its_own_first_token(network):
    labels = torch.tensor([0, 1, -1, 0, 0, 0])
    positions = torch.tensor([0.0, 0.0, 0.0, 0.99, 1.0, torch.nan])
    tokens = network.first_tokens(labels, positions).tolist()
    assert tokens[3] == tokens[4]  # one bin
    assert len(set(tokens)) == 5
    assert min(tokens) >= 20
    assert max(tokens) < network.transformer.num_tokens


def test_a_network_without_conditions_has_one_first_token():
    network = CodeTransformer(STAGE_ONE, 16, 1, 2, dropout=0.1, num_classes=0, use_position=False)
    tokens = network.first_tokens(torch.tensor([0, 1, -1]), torch.tensor([0.0, 0.5, torch.nan]))
    assert len(set(tokens.tolist())) == 1


def test_samples_depend_on_the_seed_and_are_of_the_class_asked_for(network):
    codes, labels, positions = network.sample_codes(4, seed=1, label=1, position=0.5)
    torch.rand(3)
    assert torch.equal(network.sample_codes(4, seed=1, label=1, position=0.5)[0], codes)
    assert not torch.equal(network.sample_codes(4, seed=2, label=1, position=0.5)[0], codes)
    assert labels.tolist() == [1] * 4
    assert positions.tolist() == [0.5] * 4
    assert network.sample(2, seed=0)[0].shape == (2, 1, 16, 16)


def test_heads_that_do_not_divide_the_features_are_refused():
    with pytest.raises(MedsynthError, match="features is 30, which 4 heads don't divide"):
        CodeTransformer(STAGE_ONE, 30, 6, 4, dropout=0.1, num_classes=0, use_position=True)
