import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution import set_measures
from medsynth.evaluation.metrics.distribution.baseline import pca_gmm
from medsynth.evaluation.metrics.distribution.image_set import ImageSet


def test_images_positions_and_classes_are_drawn_together(make_slices):
    train = make_slices(20)
    train.positions[:] = np.sin(np.pi * train.positions)  # discs are largest in the middle
    drawn = pca_gmm(train, 200, seed=0)
    assert drawn.images.shape == (200, 32, 32)
    assert set(drawn.labels) == {"AD", "NC"}
    area = (drawn.images > 0.3).mean((1, 2))
    assert np.corrcoef(area, drawn.positions)[0, 1] > 0.3
    np.testing.assert_array_equal(drawn.images, pca_gmm(train, 200, seed=0).images)


def test_what_the_training_set_does_not_know_is_not_made_up(make_slices):
    drawn = pca_gmm(ImageSet(make_slices(10).images), 20, seed=0)
    assert drawn.classes == []
    assert np.isnan(drawn.positions).all()


@pytest.fixture(scope="module")
def draws() -> list[ImageSet]:
    """40 draws of 100 images from a mixture of dark images and of twice as many bright ones."""
    rng = np.random.default_rng(0)
    brightness = np.where(np.arange(360) % 3, 0.8, 0.2) + 0.02 * rng.standard_normal(360)
    train = ImageSet((brightness[:, None, None] + 0.02 * rng.standard_normal((360, 3, 3))).astype(np.float32))
    return [pca_gmm(train, 100, seed) for seed in range(40)]


def bright(images: ImageSet) -> np.ndarray:
    return images.images.mean((1, 2)) > 0.5


def test_components_are_drawn_as_often_as_independent_draws_would(draws):
    counts = [bright(images).sum() for images in draws]
    assert np.mean(counts) == pytest.approx(100 * 2 / 3, abs=3)
    chi_squared = 39 * np.var(counts, ddof=1) / (100 * 2 / 3 * 1 / 3)
    assert 20 < chi_squared < 65  # 99 % of the distribution with 39 degrees of freedom; even draws would be near 0


def test_draws_within_a_component_are_independent(draws):
    means = [images.images.mean((1, 2)) for images in draws]
    within = [values[bright(images)] for values, images in zip(means, draws, strict=True)]
    expected = np.mean([values.var(ddof=1) / len(values) for values in within])
    assert 0.5 < np.var([values.mean() for values in within], ddof=1) / expected < 1.8
    pairs = np.concatenate([np.stack([values[:-1], values[1:]]) for values in within], axis=1)
    assert abs(np.corrcoef(pairs)[0, 1]) < 0.06
    order = np.concatenate([np.stack([bright(i)[:-1], bright(i)[1:]]) for i in draws], axis=1)
    assert abs(np.corrcoef(order)[0, 1]) < 0.06  # no component is drawn as a block


def test_the_baseline_is_as_many_images_as_are_compared_rounded_as_they_are(make_slices, tmp_path, monkeypatch):
    drawn = []

    def spy(train, count, seed):
        drawn.append(pca_gmm(train, count, seed))
        return drawn[-1]

    monkeypatch.setattr(set_measures, "pca_gmm", spy)
    monkeypatch.setattr(set_measures, "GROUPS", (set_measures.GROUPS[1],))
    train, held_out, synthetic = make_slices(6, seed=1), make_slices(6, seed=2), make_slices(5, seed=3)
    found = set_measures.evaluate_unpaired(train, held_out, synthetic, 0, tmp_path)
    assert found["fd_pca"].n == len(drawn[0]) == 60
    for images in (train, held_out, synthetic, drawn[0]):
        np.testing.assert_array_equal(images.images, np.rint(images.images * 255).astype(np.float32) / np.float32(255))
