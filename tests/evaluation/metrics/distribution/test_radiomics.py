import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.radiomics import NAMES, radiomics


def values_of(image):
    found = radiomics(np.float32([image, image]))
    assert found.shape == (2, len(NAMES)) == (2, 22)
    return dict(zip(NAMES, found[0], strict=True))


def test_first_order_values_by_hand():
    image = np.zeros((4, 4))
    image[0] = 0.2, 0.4, 0.6, 0.8
    found = values_of(image)
    assert found["area"] == 0.25
    assert found["mean"] == pytest.approx(0.5)
    assert found["deviation"] == pytest.approx(np.sqrt(0.05))
    assert found["skewness"] == pytest.approx(0, abs=1e-5)
    assert found["kurtosis"] == pytest.approx(1.64)
    assert found["p50"] == pytest.approx(0.5)
    assert found["interquartile_range"] == pytest.approx(0.3)
    assert found["mean_absolute_deviation"] == pytest.approx(0.2)
    assert found["entropy"] == pytest.approx(2)
    assert found["uniformity"] == pytest.approx(0.25)


def test_cooccurrence_of_stripes_by_hand():
    # Columns of levels 15 and 5: beside each other and diagonally they differ by 10, along the stripes by 0.
    image = np.tile([1.0, 5 / 15], (6, 3))
    found = values_of(image)
    across, along = 30 + 25 + 25, 30
    assert found["contrast"] == pytest.approx(100 * across / (across + along))
    assert found["dissimilarity"] == pytest.approx(10 * across / (across + along))
    assert found["maximum_probability"] == pytest.approx(across / (across + along) / 2)


def test_air_beside_air_does_not_count():
    image = np.zeros((20, 20))
    image[5:15, 5:15] = np.tile([1.0, 5 / 15], (10, 5))
    wider = np.pad(image, 20)
    for name in NAMES[1:]:
        assert values_of(wider)[name] == pytest.approx(values_of(image)[name], rel=1e-6), name


def test_an_image_of_air_alone_has_finite_values():
    assert np.isfinite(radiomics(np.zeros((2, 8, 8), np.float32))).all()
