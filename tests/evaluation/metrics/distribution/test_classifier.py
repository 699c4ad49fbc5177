import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.classifier import c2st


def test_tells_blurred_images_from_real_ones_on_subjects_it_has_not_seen(make_slices):
    real, test = make_slices(6, seed=1).images, make_slices(6, seed=2).images
    flat = [np.where(images > 0, images[images > 0].mean(), 0).astype(np.float32) for images in (real, test)]
    found = c2st(real, flat[0], test, flat[1], seed=0)
    assert found.auc > 0.95
    assert len(found.real_scores) == len(test)
    assert found.fake_scores.mean() > found.real_scores.mean()


def test_cannot_tell_images_of_one_kind_apart():
    a, b, c, d = np.random.default_rng(0).random((4, 80, 16, 16), dtype=np.float32)
    assert c2st(a, b, c, d, seed=0).auc == pytest.approx(0.5, abs=0.15)
