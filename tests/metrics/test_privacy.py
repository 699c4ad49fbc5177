import numpy as np
import pytest

from medsynth.metrics.privacy import authenticity, closer_to_train


def test_copies_of_training_images_are_all_closer_to_them_and_never_authentic():
    train, held_out = np.random.default_rng(0).standard_normal((2, 50, 4))
    assert closer_to_train(train, train, held_out) == 1
    assert authenticity(train, train, np.repeat(np.arange(10), 5)) == 0


@pytest.mark.parametrize("train_size", [100, 400])
def test_new_images_are_as_near_to_both_sets_whatever_their_sizes(train_size):
    rng = np.random.default_rng(1)
    fake, train, held_out = (rng.standard_normal((n, 3)) for n in (3000, train_size, 100))
    assert closer_to_train(fake, train, held_out) == pytest.approx(0.5, abs=0.06)


def test_closer_to_train_by_hand():
    # Fakes at 0, 1, 2 and 9: the first three are nearer to 0 (training), the last to 10 (held out).
    assert closer_to_train([[0.0], [1], [2], [9]], [[0.0], [-5]], [[10.0], [20]]) == pytest.approx(3 / 4)
    # The same odds 3 : 1 with twice as many training images are 3 : 2.
    assert closer_to_train([[0.0], [1], [2], [9]], [[0.0], [-5], [-6], [-7]], [[10.0], [20]]) == pytest.approx(3 / 5)


def test_authenticity_by_hand():
    # Training images at 0 and 0.1 (one subject), 4 and 10: distances to other subjects 4, 3.9, 3.9 and 6.
    train, subjects = [[0.0], [0.1], [4.0], [10.0]], ["a", "a", "b", "c"]
    assert authenticity([[-3.0], [-5.0], [6.0], [17.0]], train, subjects) == pytest.approx(2 / 4)  # -5 and 17
