import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.privacy import (
    all_pairs,
    authenticity,
    closer_to_train,
    duplicated,
    membership_auc,
    nearest,
    nearest_pairs,
)


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


def test_nearest_skips_the_subject_itself_whatever_the_number_of_rows():
    rng = np.random.default_rng(0)
    features, subjects = rng.standard_normal((700, 3)), np.arange(700) // 7
    found = nearest(features, features, subjects, subjects)
    whole = ((features[:, None] - features[None]) ** 2).sum(2)
    whole[subjects[:, None] == subjects] = np.inf
    np.testing.assert_allclose(found.distance, whole.min(1), atol=1e-9)
    np.testing.assert_array_equal(found.index, whole.argmin(1))


def test_membership_by_hand():
    # Training images lie 0, 1 and 3 from the nearest synthetic one, held-out ones 2 and 4: 5 of 6 pairs are in order.
    assert membership_auc([[0.0], [100.0]], [[0.0], [1.0], [97.0]], [[2.0], [104.0]]) == pytest.approx(5 / 6)


def test_membership_cannot_be_told_from_images_of_other_subjects():
    fake, train, held_out = np.random.default_rng(0).standard_normal((3, 1000, 4))
    assert membership_auc(fake, train, held_out) == pytest.approx(0.5, abs=0.05)


def test_duplicates_are_found_among_outputs():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((2, 60, 8))
    fake[30:] = fake[0] + 1e-3 * rng.standard_normal((30, 8))
    found = duplicated(fake, real, np.arange(60))
    assert found.sum() == 31
    assert not duplicated(real, fake, np.arange(60)[::-1] // 2).any()


def test_nearest_pairs_name_each_training_image_once_nearest_first():
    train, subjects = [[0.0], [10.0], [30.0]], np.array(["a", "b", "c"])
    pairs = nearest_pairs(np.array([[9.0], [0.5], [0.1], [27.0]]), np.array(train), subjects)
    assert [(pair.synthetic, pair.train) for pair in pairs] == [(2, 0), (0, 1), (3, 2)]
    assert [pair.distance for pair in pairs] == pytest.approx([0.1, 1.0, 3.0])
    assert [pair.usual for pair in pairs] == pytest.approx([10, 10, 20])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_copy_is_found_however_few_images_there_are_and_others_are_not(count):
    rng = np.random.default_rng(0)
    train, others = rng.standard_normal((2, 40, 16))
    copied = train[3 : 3 + count] + 1e-2 * rng.standard_normal((count, 16))
    pairs = [pair for pair in all_pairs(np.concatenate([others, copied]), train, np.arange(40) // 2) if pair.is_copy]
    assert sorted((pair.synthetic, pair.train) for pair in pairs) == [(40 + i, 3 + i) for i in range(count)]
