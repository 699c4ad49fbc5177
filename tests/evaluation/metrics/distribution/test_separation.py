import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.separation import separation


def test_classes_far_apart_are_told_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat(["AD", "NC"], 40)
    features = rng.standard_normal((80, 3)) + 20 * (labels == "AD")[:, None]
    found = separation(features, labels)
    assert found.knn_accuracy == 1
    assert found.silhouette == pytest.approx(silhouette_score(features, labels))
    assert found.chance == 0.5


def test_an_identity_is_not_taken_for_a_class():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(60), 5)
    labels = np.repeat(rng.permutation(["AD", "NC"] * 30), 5)
    features = np.repeat(rng.standard_normal((60, 4)), 5, 0) + 0.01 * rng.standard_normal((300, 4))
    assert separation(features, labels, np.arange(300)).knn_accuracy > 0.65
    assert separation(features, labels, subjects).knn_accuracy < 0.6


def test_a_rare_class_counts_as_much_as_a_common_one():
    rng = np.random.default_rng(0)
    labels = np.repeat(["AD", "NC"], [12, 400])
    assert separation(rng.standard_normal((412, 2)), labels).knn_accuracy == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["AD"] * 40, "1 class"), (["AD"] * 35 + ["NC"] * 5, "5 images of class NC"), ([""] * 40, "0 class")],
)
def test_what_cannot_be_told_apart_is_said(labels, message):
    with pytest.raises(CannotMeasure, match=message):
        separation(np.random.default_rng(0).random((40, 2)), labels)
