import numpy as np

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
    np.testing.assert_allclose(drawn.images * 255, np.rint(drawn.images * 255), atol=1e-4)
