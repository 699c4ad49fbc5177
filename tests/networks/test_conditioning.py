from __future__ import annotations

import pytest
import torch

from medsynth.networks.conditioning import UNKNOWN_CLASS, Conditioning

NAN = float("nan")


@pytest.fixture
def like() -> torch.Tensor:
    return torch.zeros(3, 5)


def test_nothing_in_use_is_zeros(like):
    condition = Conditioning(0, False, 7)
    assert torch.equal(condition(torch.tensor([0, 1, -1]), torch.tensor([0.1, 0.2, NAN]), like), torch.zeros(3, 7))


def test_each_class_and_the_unknown_one_have_a_vector_of_their_own(like):
    vectors = Conditioning(2, False, 7)(torch.tensor([0, 1, UNKNOWN_CLASS]), None, like)
    assert torch.pdist(vectors).min() > 1e-2


def test_a_missing_label_is_an_unknown_one(like):
    condition = Conditioning(2, True, 7)
    position = torch.tensor([0.2, 0.4, 0.6])
    assert torch.equal(condition(None, position, like), condition(torch.full((3,), UNKNOWN_CLASS), position, like))


def test_an_unknown_position_is_finite_and_unlike_any_known_one(like):
    condition = Conditioning(0, True, 7)
    vectors = condition(None, torch.tensor([0.0, 1.0, NAN]), like)
    assert vectors.isfinite().all()
    assert torch.pdist(vectors).min() > 1e-2


def test_positions_of_neighbouring_slices_differ_all_over_the_head():
    torch.manual_seed(0)
    positions = torch.linspace(0, 1, 80)
    vectors = Conditioning(0, True, 32)(None, positions, torch.zeros(80, 1))
    assert torch.pdist(vectors).min() > 1e-2


def test_gradients_reach_the_embedding_of_the_classes_present_and_the_position(like):
    condition = Conditioning(3, True, 7)
    condition(torch.tensor([0, 2, 2]), torch.tensor([0.3, NAN, 0.9]), like).sum().backward()
    gradients = [parameter.grad for parameter in condition.parameters()]
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
    embedding = next(gradient for gradient in gradients if gradient.shape == (4, 7))
    assert embedding[:, 0].tolist() == [1, 0, 2, 0]
