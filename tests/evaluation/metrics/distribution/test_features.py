import numpy as np
import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution import features
from medsynth.evaluation.metrics.distribution.distances import fit_pca
from medsynth.evaluation.metrics.distribution.image_set import ImageSet


def test_one_seed_one_set_of_features_and_another_seed_another(make_slices, short_training, tmp_path):
    train = make_slices(9)
    first, again, other = (
        features.self_features(train, seed, tmp_path / folder) for seed, folder in ((0, "a"), (0, "b"), (1, "a"))
    )
    assert first.digest == again.digest != other.digest
    np.testing.assert_array_equal(first(train.images[:3]), again(train.images[:3]))


def test_training_images_have_standard_features(make_slices, short_training, tmp_path):
    train = make_slices(9)
    found = features.self_features(train, 0, tmp_path)(train.images)
    assert found.shape == (108, 2 * features.FEATURES)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    assert np.median(found.std(0, ddof=1)) == pytest.approx(1, abs=1e-3)


def test_a_set_is_learned_once(make_slices, short_training, tmp_path, monkeypatch):
    train = make_slices(9)
    first = features.self_features(train, 0, tmp_path)
    monkeypatch.setattr(features, "train_networks", None)
    assert features.self_features(train, 0, tmp_path).digest == first.digest


def test_a_damaged_file_in_the_cache_is_refused(make_slices, short_training, tmp_path):
    train = make_slices(9)
    features.self_features(train, 0, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MedsynthError, match=path.name):
        features.self_features(train, 0, tmp_path)


@pytest.mark.parametrize("subjects", [1, 5])
def test_too_little_to_learn_from_is_said(make_slices, subjects, tmp_path):
    with pytest.raises(CannotMeasure, match="needs 100 of 2 or more"):
        features.self_features(make_slices(subjects), 0, tmp_path)


@pytest.mark.parametrize("shape", [(32, 32), (45, 64), (128, 128), (256, 256)])
def test_any_size_has_the_same_number_of_features(shape):
    network = features.FeatureNet(min(shape), classes=2, subjects=3)
    assert network.features(torch.rand(2, 1, *shape)).shape == (2, features.FEATURES)


def test_damage_does_what_its_strengths_say(make_slices):
    images = torch.from_numpy(make_slices(8).images)[:, None]
    low_rank = fit_pca(images[:, 0].numpy(), 20)
    damaged, strengths = features.damage(images, low_rank, torch.Generator().manual_seed(0))
    assert ((strengths > 0).sum(1) <= 1).all()
    intact, noisy = (strengths == 0).all(1), strengths[:, 1] > 0
    torch.testing.assert_close(damaged[intact], images[intact])
    air = (images[noisy] > 0.4) & (images[noisy] < 0.6)  # where clipping to [0, 1] takes nothing away
    error = torch.where(air, damaged[noisy] - images[noisy], torch.nan).flatten(1)
    found = error.nan_to_num().square().sum(1).div(air.flatten(1).sum(1)).sqrt()
    enough = air.flatten(1).sum(1) > 30
    torch.testing.assert_close(found[enough], strengths[noisy, 1][enough] / features.NOISE_UNIT, rtol=0.4, atol=0)
    assert 0.2 < intact.float().mean() < 0.6


def test_the_last_head_learns_nothing_of_unknown_positions_and_classes(make_slices):
    known = make_slices(9)
    unknown = ImageSet(known.images, known.subjects)
    network = features.FeatureNet(32, 1, 9)
    loss = features._loss(network(torch.rand(4, 1, 32, 32)), _first_four(unknown), torch.zeros(4, features.DAMAGES))
    loss.backward()
    assert network.outputs["position"].weight.grad is None
    assert network.outputs["class"].weight.grad is None
    assert network.outputs["subject"].weight.grad.abs().sum() > 0


def _first_four(images):
    return {name: target[:4] for name, target in features._targets(images).items()}
