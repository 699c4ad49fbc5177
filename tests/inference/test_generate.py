from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.inference.generate import Request, sampled, slice_space
from medsynth.nn.conditioning import TrainingConditions
from medsynth.run.recipe import load_model


def draw(model, count, seed=0, label=None, position=None):
    request = Request(count, label, position, seed)
    return list(sampled(model.network.sample, request, request.condition(model)))


def test_the_same_seed_gives_the_same_images_and_another_seed_others(model_pt):
    model = load_model(model_pt())
    first, again, other = (draw(model, 3, seed) for seed in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a[0], b[0])
        assert not torch.equal(a[0], c[0])


def test_the_first_of_many_images_are_those_of_a_few(model_pt):
    model = load_model(model_pt())
    few, many = draw(model, 18), draw(model, 40)
    assert len(few) == 18
    assert len(many) == 40
    assert all(torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(few, many, strict=False))


def test_no_two_blocks_are_alike(model_pt):
    images = torch.stack([image for image, *_ in draw(load_model(model_pt()), 40)]).flatten(1)
    distances = torch.cdist(images, images) + torch.eye(40) * 1e9
    assert distances.min() > 1e-3


def test_class_and_position_are_those_requested(model_pt):
    drawn = draw(load_model(model_pt()), 5, label="NC", position=0.25)
    assert {label for _, label, _ in drawn} == {1}
    assert [position for *_, position in drawn] == pytest.approx([0.25] * 5, abs=1e-5)


def test_without_a_label_the_classes_are_as_in_the_training_set(model_pt):
    labels = [label for _, label, _ in draw(load_model(model_pt()), 200)]
    assert 60 < sum(labels) < 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, None, 0), "num_images is 0: give a whole number, 1 or more"),
        ((2.5, None, None, 0), "num_images is 2.5"),
        ((1, None, 1.5, 0), "position is 1.5: give null or a number from 0 to 1; of heads, .*; of pictures, 0 is"),
        ((1, None, "top", 0), "position is 'top'"),
        ((1, None, None, -1), "seed is -1"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(MedsynthError, match=message):
        Request(*arguments)


def test_an_unknown_class_is_refused_with_the_known_ones(model_pt):
    with pytest.raises(MedsynthError, match="'MCI', which the model does not know: it has the classes AD, NC,"):
        Request(1, "MCI", None, 0).condition(load_model(model_pt()))
    with pytest.raises(MedsynthError, match="it was trained without classes"):
        Request(1, "AD", None, 0).condition(load_model(model_pt(classes=())))


def test_a_position_of_pictures_cannot_be_requested(model_pt):
    with pytest.raises(MedsynthError, match="had no position"):
        Request(1, None, 0.5, 0).condition(load_model(model_pt("image")))


def test_a_model_without_spacing_is_refused(model_pt):
    model = load_model(model_pt())
    del model.extra["slices"]
    with pytest.raises(MedsynthError, match="has no spacing of its slices"):
        slice_space(model)


@pytest.mark.parametrize(("position", "known"), [(float("nan"), False), (0.4, True)])
def test_a_position_is_refused_where_the_training_pictures_had_none(position, known):
    conditions = TrainingConditions(0)
    conditions.fit(torch.full((3,), -1), torch.full((3,), position))
    model = SimpleNamespace(network=SimpleNamespace(conditions=conditions), classes=[])
    if known:
        assert Request(1, None, 0.5, 0).condition(model) == {"label": None, "position": 0.5}
    else:
        assert Request(1, None, None, 0).condition(model) == {"label": None, "position": None}
        with pytest.raises(MedsynthError, match="had no positions: leave position null"):
            Request(1, None, 0.5, 0).condition(model)
