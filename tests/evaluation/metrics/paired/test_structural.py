import numpy as np
import pytest
from skimage.metrics import structural_similarity

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.paired.structural import halved, ms_ssim, ssim


@pytest.mark.parametrize("shape", [(7, 7), (33, 20), (9, 8, 25), (30, 17, 11)])
def test_ssim_is_scikit_images_to_the_digit(shape):
    rng = np.random.default_rng(0)
    target = rng.random(shape)
    prediction = target + 0.2 * rng.random(shape)
    found = ssim(prediction, target, np.ones(shape, bool), 1.3)
    assert found == pytest.approx(structural_similarity(prediction, target, data_range=1.3), abs=1e-12)


def test_ssim_in_a_mask_is_the_mean_of_scikit_images_map_there():
    rng = np.random.default_rng(1)
    target, prediction = rng.random((2, 30, 17, 11))
    mask = rng.random(target.shape) > 0.9
    _, similarity = structural_similarity(prediction, target, data_range=1.0, full=True)
    inner = (slice(3, -3),) * 3
    expected = similarity[inner][mask[inner]].mean()
    assert ssim(prediction, target, mask, 1.0) == pytest.approx(expected, abs=1e-12)


def test_a_mask_in_the_border_only_cannot_be_measured():
    mask = np.zeros((10, 10), bool)
    mask[:3] = True
    with pytest.raises(CannotMeasure, match="farther than 3"):
        ssim(np.ones((10, 10)), np.ones((10, 10)), mask, 1.0)


def test_halved_by_hand():
    assert halved(np.array([2.0, 4.0, 6.0, 8.0, 10.0])).tolist() == [1.0, 5.0, 9.0]


def test_ms_ssim_of_one_image_is_1_and_falls_with_noise():
    image = np.random.default_rng(0).random((40, 50))
    mask = np.ones(image.shape, bool)
    noisy = [image + deviation * np.random.default_rng(1).normal(size=image.shape) for deviation in (0.1, 0.3)]
    assert ms_ssim(image, image, mask, 1.0) == pytest.approx(1)
    assert 1 > ms_ssim(noisy[0], image, mask, 1.0) > ms_ssim(noisy[1], image, mask, 1.0) > 0
