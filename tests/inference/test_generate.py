from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.inference.generate import Request, overlaid, sampled, slice_space, write_images
from medsynth.inference.image_folder import ImageFolder
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
    assert {label for _, label, *_ in drawn} == {1}
    assert [position for _, _, position, _ in drawn] == pytest.approx([0.25] * 5, abs=1e-5)


def test_without_a_label_the_classes_are_as_in_the_training_set(model_pt):
    labels = [label for _, label, *_ in draw(load_model(model_pt()), 200)]
    assert 60 < sum(labels) < 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, None, 0), "num_images is 0: give a whole number, 1 or more"),
        ((2.5, None, None, 0), "num_images is 2.5"),
        (
            (1, None, 1.5, 0),
            "position is 1.5: give null or a number from 0 to 1; of heads, .*; of bodies and pictures, 0 is",
        ),
        ((1, None, "top", 0), "position is 'top'"),
        ((1, None, None, -1), "seed is -1"),
        ((1, None, None, 0, "age: 70"), "covariates is 'age: 70': give null, or a number for each name"),
        ((1, None, None, 0, {"age": "old"}), "covariates is {'age': 'old'}"),
        ((1, None, None, 0, {"age": True}), "covariates is {'age': True}"),
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


@pytest.fixture
def aged():
    """A model of two covariates whose images are blank; those of training are 20 to 80.3 years old, the sex unknown."""
    conditions = TrainingConditions(0, ["age", "sex"])
    values = torch.tensor([[20.0, torch.nan], [80.3, torch.nan]])
    conditions.fit(torch.full((2,), -1), torch.full((2,), torch.nan), values)

    def sample(count, seed, label, position, covariates):
        facts = conditions.sample(count, label, position, torch.Generator().manual_seed(seed), covariates)
        return torch.zeros(count, 1, 8, 8), *facts

    space = {"modality": "mri", "spacing_mm": (2.0, 2.0), "slice_mm": 2.0, "bounds": None, "plane": "axial"}
    network = SimpleNamespace(conditions=conditions, sample=sample)
    return SimpleNamespace(network=network, classes=[], extra={"slices": space}, preprocessing={})


def test_covariates_that_are_asked_for_are_in_the_sidecars_and_the_table(aged, tmp_path):
    request = Request(2, None, None, 0, {"age": 70.1})
    drawn = sampled(aged.network.sample, request, request.condition(aged))
    write_images(drawn, 2, request, aged, ImageFolder(tmp_path, "system", "digest"), 2)
    rows = list(csv.DictReader((tmp_path / "images.csv").open()))
    assert [(row["age"], row["sex"]) for row in rows] == [("70.1", "")] * 2
    assert "covariates" not in rows[0]
    for path in (tmp_path / "images").glob("*.json"):
        assert json.loads(path.read_text())["Covariates"] == {"age": 70.1, "sex": None}


def test_covariates_are_as_in_the_training_set_where_none_are_asked_for(aged):
    request = Request(40, None, None, 0)
    ages = [covariates[0] for *_, covariates in sampled(aged.network.sample, request, request.condition(aged))]
    assert {round(age, 1) for age in ages} == {20.0, 80.3}


def test_a_model_without_covariates_writes_none(model_pt, tmp_path):
    model, request = load_model(model_pt()), Request(2, None, None, 0)
    condition = request.condition(model)
    assert condition == {"label": None, "position": None}
    drawn = sampled(model.network.sample, request, condition)
    write_images(drawn, 2, request, model, ImageFolder(tmp_path / "out", "system", "digest"), 2)
    header = (tmp_path / "out" / "images.csv").read_text().splitlines()[0]
    assert header == "file,label,position,seed,index"
    assert all("Covariates" not in json.loads(p.read_text()) for p in (tmp_path / "out" / "images").glob("*.json"))


def test_covariates_that_the_model_cannot_know_are_refused(aged, model_pt):
    with pytest.raises(MedsynthError, match="names weight, which the model does not know: it knows age, sex"):
        Request(1, None, None, 0, {"weight": 70}).condition(aged)
    with pytest.raises(MedsynthError, match=r"has age 90, and the training images have 20 to 80\.3"):
        Request(1, None, None, 0, {"age": 90}).condition(aged)
    with pytest.raises(MedsynthError, match="it was trained without covariates, or leave covariates null"):
        Request(1, None, None, 0, {"age": 70}).condition(load_model(model_pt()))


def test_a_class_has_one_colour_in_all_images_and_the_background_none():
    images = torch.zeros(2, 1, 4, 4)
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0], maps[1, 0, 3] = 5, 5
    maps[0, 0, 1] = 2
    shown = overlaid(images, maps)
    assert shown.shape == (2, 3, 4, 4)
    assert shown[:, :, 2].unique().tolist() == pytest.approx([0], abs=1e-6)
    assert torch.equal(shown[0, :, 0], shown[1, :, 3])
    assert not torch.equal(shown[0, :, 0], shown[0, :, 1])
