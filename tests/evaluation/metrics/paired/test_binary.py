import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from medsynth.evaluation.metrics.paired.binary import binary_scores


def test_equal_scikit_learns_on_a_target_of_two_values():
    rng = np.random.default_rng(0)
    target = (rng.random(500) > 0.3).astype(float)
    prediction = (0.6 * target + 0.4 * rng.random(500)).clip(0.01, 0.99)
    found = binary_scores(prediction * 100 - 50, target * 100 - 50, (-50.0, 50.0))
    assert found["binary_bce"] == pytest.approx(log_loss(target, prediction), rel=1e-5)
    assert found["binary_auc"] == pytest.approx(roc_auc_score(target, prediction), abs=1e-4)
    assert found["binary_f1"] == pytest.approx(f1_score(target, prediction > 0.5))


def test_cross_entropy_of_an_uncertain_target_by_hand():
    found = binary_scores(np.array([0.25, 0.5]), np.array([0.5, 1.0]), (0.0, 1.0))
    by_hand = (-0.5 * np.log(0.25) - 0.5 * np.log(0.75) - np.log(0.5)) / 2
    assert found["binary_bce"] == pytest.approx(by_hand, rel=1e-6)


def test_a_target_of_one_kind_has_neither_auc_nor_f1():
    assert set(binary_scores(np.array([0.1, 0.9]), np.array([0.0, 0.2]), (0.0, 1.0))) == {"binary_bce"}
