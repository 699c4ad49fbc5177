from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
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
    assert torch.equal(condition(None, None, like), condition(None, torch.full((3,), NAN), like))


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
    labels, positions, _ = TrainingConditions(2).sample(5)
    assert labels.tolist() == [UNKNOWN_CLASS] * 5
    assert positions.isnan().all()


def test_classes_and_positions_are_drawn_as_frequent_as_they_were_learned():
    conditions = TrainingConditions(2)
    labels = torch.tensor([0] * 300 + [1] * 100)
    conditions.fit(labels, torch.cat([torch.linspace(0, 0.2, 300), torch.linspace(0.6, 1, 100)]))
    labels, positions, _ = conditions.sample(4000, generator=torch.Generator().manual_seed(0))
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
    labels, positions, _ = conditions.sample(4, label=1)
    assert labels.tolist() == [1] * 4
    assert positions.tolist() == pytest.approx([0.2] * 4)


def test_pictures_without_positions_are_drawn_without():
    conditions = TrainingConditions(0)
    conditions.fit(torch.full((4,), -1), torch.full((4,), NAN))
    labels, positions, _ = conditions.sample(3)
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


def test_an_unknown_covariate_is_finite_and_unlike_any_known_one():
    condition = Conditioning(0, False, 7, covariates=1)
    vectors = condition(None, None, torch.zeros(4, 5), torch.tensor([[0.0], [1.0], [-1.0], [NAN]]))
    assert vectors.isfinite().all()
    assert torch.pdist(vectors).min() > 1e-2


def test_covariates_that_are_not_given_are_unknown(like):
    condition = Conditioning(2, True, 7, covariates=2)
    label, position = torch.tensor([0, 1, -1]), torch.tensor([0.2, 0.4, NAN])
    assert torch.equal(condition(label, position, like), condition(label, position, like, torch.full((3, 2), NAN)))


def test_an_unknown_covariate_leaves_the_others_their_meaning(like):
    condition = Conditioning(0, False, 7, covariates=2)
    one, other = (condition(None, None, like, torch.tensor([[NAN, age]] * 3)) for age in (-1.0, 1.0))
    assert not torch.allclose(one, other, atol=1e-3)


def test_without_covariates_the_weights_are_those_of_earlier_models():
    torch.manual_seed(0)
    condition = Conditioning(2, True, 7)
    assert list(condition.state_dict()) == ["classes.weight", "place.weight", "place.bias"]
    assert list(TrainingConditions(2).state_dict()) == ["class_shares", "positions"]
    torch.manual_seed(0)
    richer = Conditioning(2, True, 7, covariates=3).state_dict()
    assert all(torch.equal(value, richer[name]) for name, value in condition.state_dict().items())


def test_gradients_reach_the_embedding_of_each_covariate():
    condition = Conditioning(0, False, 7, covariates=2)
    condition(None, None, torch.zeros(2, 1), torch.tensor([[0.5, NAN], [NAN, -2.0]])).sum().backward()
    assert condition.measures.weight.grad[0].tolist() == [1, 1, 0.5, -2, 0.25, 4]


def fitted() -> TrainingConditions:
    """Class 0 of 20 to 40 years and all women, class 1 of 60 to 80 and half of them men."""
    conditions = TrainingConditions(2, ["age", "sex"])
    labels = torch.tensor([0] * 200 + [1] * 200)
    ages = torch.cat([torch.linspace(20, 40, 200), torch.linspace(60, 80, 200)])
    sexes = torch.cat([torch.zeros(200), torch.arange(200) % 2])
    conditions.fit(labels, torch.linspace(0, 1, 400), torch.stack([ages, sexes], dim=1))
    return conditions


def test_covariates_are_drawn_as_the_training_images_of_their_class_have_them():
    labels, _, drawn = fitted().sample(4000, generator=torch.Generator().manual_seed(0))
    for label, low, men in ((0, 20, 0.0), (1, 60, 0.5)):
        ages, sexes = drawn[labels == label].T
        assert low <= ages.min() < ages.max() <= low + 20
        assert ages.mean() == pytest.approx(low + 10, abs=0.5)
        assert ages.std() == pytest.approx(20 / 12**0.5, rel=0.1)
        assert set(sexes.tolist()) <= {0.0, 1.0}
        assert sexes.mean() == pytest.approx(men, abs=0.04)


def test_covariates_that_are_asked_for_are_kept_and_change_nothing_else():
    plain, asked = (
        fitted().sample(50, label=0, generator=torch.Generator().manual_seed(3), covariates=covariates)
        for covariates in (None, {"age": 35})
    )
    assert asked[2][:, 0].tolist() == [35] * 50
    assert torch.equal(asked[2][:, 1], plain[2][:, 1])
    assert all(torch.equal(one, other) for one, other in zip(plain[:2], asked[:2], strict=True))


@pytest.mark.parametrize(
    ("covariates", "classes"),
    [
        ({"age": 35}, {0}),
        ({"age": 60}, {1}),
        ({"age": 48}, {0}),  # nobody has it; 40 is nearer than 60
        ({"sex": 0}, {0, 1}),
        ({"sex": 1}, {1}),
        ({"age": 35, "sex": 1}, {1}),  # no class has both: a sex is farther from the other than 35 years from 60
        (None, {0, 1}),
    ],
)
def test_classes_are_drawn_that_have_the_covariates_that_are_asked_for(covariates, classes):
    labels, _, _ = fitted().sample(50, generator=torch.Generator().manual_seed(3), covariates=covariates)
    assert set(labels.tolist()) == classes


def test_covariates_are_drawn_after_classes_and_positions():
    with_covariates, without = fitted(), TrainingConditions(2)
    without.load_state_dict({name: with_covariates.state_dict()[name] for name in without.state_dict()})
    one, other = (some.sample(50, generator=torch.Generator().manual_seed(3)) for some in (with_covariates, without))
    assert all(torch.equal(a, b) for a, b in zip(one[:2], other[:2], strict=True))
    assert other[2].shape == (50, 0)


def test_standardized_covariates_have_mean_0_and_deviation_1_and_unknown_ones_stay():
    conditions = TrainingConditions(0, ["age", "constant"])
    values = torch.tensor([[20.0, 3], [40, 3], [60, NAN], [NAN, 3]])
    conditions.fit(torch.full((4,), -1), torch.full((4,), NAN), values)
    found = conditions.standardize(values)
    assert found[:3, 0].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert found[:2, 1].tolist() == [0, 0]
    assert torch.equal(found.isnan(), values.isnan())


def test_covariates_are_unknown_before_they_are_learned_and_where_no_image_has_them():
    conditions = TrainingConditions(1, ["age", "sex"])
    assert conditions.sample(3)[2].isnan().all()
    assert conditions.standardize(torch.tensor([[5.0, NAN]]))[0, 0] == 5
    ages = torch.tensor([[30.0, NAN], [NAN, NAN]])
    conditions.fit(torch.tensor([-1, 0]), torch.full((2,), NAN), ages)
    assert all(values.isfinite().all() for values in conditions.state_dict().values())
    drawn = conditions.sample(3, label=0)[2]
    assert drawn[:, 0].tolist() == [30] * 3  # those of all images, where none of the class is known
    assert drawn[:, 1].isnan().all()
    with pytest.raises(MedsynthError, match="sex of none of the model's training images was known: leave it out"):
        conditions.check({"sex": 0})


def test_impossible_covariates_are_refused_with_what_the_model_has():
    conditions = TrainingConditions(0, ["age", "sex"])
    values = torch.tensor([[20.1, 0], [80.3, 1]])
    conditions.fit(torch.full((2,), -1), torch.full((2,), NAN), values)
    conditions.check({"age": 80.3, "sex": 0})  # 80.3 is more than its nearest float32
    conditions.check({"age": 20.1})
    with pytest.raises(MedsynthError, match=r"has age 80\.4, and the training images have 20\.1 to 80\.3"):
        conditions.check({"age": 80.4})
    with pytest.raises(MedsynthError, match="names weight, which the model does not know: it knows age, sex"):
        conditions.check({"weight": 70})
    with pytest.raises(MedsynthError, match="it was trained without covariates"):
        TrainingConditions(2).check({"age": 70})


def test_learned_covariates_survive_saving():
    conditions, again = fitted(), TrainingConditions(2, ("age", "sex"))
    again.load_state_dict(conditions.state_dict())
    one, other = (some.sample(20, generator=torch.Generator().manual_seed(1))[2] for some in (conditions, again))
    assert torch.equal(one, other)
    assert again.covariates == ("age", "sex")
