from __future__ import annotations

import pytest
import torch

from medsynth.nn.conditioning import UNKNOWN_CLASS, Conditioning, TrainingConditions

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


def test_conditions_are_unknown_before_they_are_learned():
    labels, positions = TrainingConditions(2).sample(5)
    assert labels.tolist() == [UNKNOWN_CLASS] * 5
    assert positions.isnan().all()


def test_classes_and_positions_are_drawn_as_frequent_as_they_were_learned():
    conditions = TrainingConditions(2)
    labels = torch.tensor([0] * 300 + [1] * 100)
    conditions.fit(labels, torch.cat([torch.linspace(0, 0.2, 300), torch.linspace(0.6, 1, 100)]))
    labels, positions = conditions.sample(4000, generator=torch.Generator().manual_seed(0))
    assert (labels == 0).float().mean() == pytest.approx(0.75, abs=0.03)
    for label, low, high in ((0, 0.0, 0.2), (1, 0.6, 1.0)):
        drawn = positions[labels == label]
        assert low <= drawn.min() < drawn.max() <= high
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.02)
        assert drawn.std() == pytest.approx((high - low) / 12**0.5, rel=0.1)


def test_conditions_that_are_asked_for_are_kept_and_change_nothing_else():
    conditions = TrainingConditions(2)
    conditions.fit(torch.tensor([0, 1, -1, -1]), torch.tensor([0.1, 0.2, NAN, NAN]))
    drawn = [conditions.sample(50, *asked, generator=torch.Generator().manual_seed(3)) for asked in ((), (None, 0.5))]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert set(drawn[0][0].tolist()) == {0, 1, UNKNOWN_CLASS}
    assert drawn[1][1].tolist() == [0.5] * 50
    labels, positions = conditions.sample(4, label=1)
    assert labels.tolist() == [1] * 4
    assert positions.tolist() == pytest.approx([0.2] * 4)


def test_pictures_without_positions_are_drawn_without():
    conditions = TrainingConditions(0)
    conditions.fit(torch.full((4,), -1), torch.full((4,), NAN))
    labels, positions = conditions.sample(3)
    assert labels.tolist() == [UNKNOWN_CLASS] * 3
    assert positions.isnan().all()


@pytest.mark.parametrize("positions", [[NAN] * 4, [NAN, NAN, 0.3, 0.5]], ids=["none known", "those of one class known"])
def test_no_weight_is_nan_whatever_positions_are_unknown(positions):
    conditions = TrainingConditions(2)
    conditions.fit(torch.tensor([0, 0, 1, 1]), torch.tensor(positions))
    assert all(values.isfinite().all() for values in conditions.state_dict().values())
    assert conditions.has_positions == (positions[-1] == 0.5)
    drawn = conditions.sample(20, label=0)[1]
    assert ((drawn >= 0.3) & (drawn <= 0.5)).all() if conditions.has_positions else drawn.isnan().all()


def test_the_position_0_is_a_known_one():
    conditions = TrainingConditions(0)
    conditions.fit(torch.full((4,), -1), torch.zeros(4))
    assert conditions.has_positions
    assert conditions.sample(3)[1].tolist() == [0.0] * 3
