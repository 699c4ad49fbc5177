import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.utility import choose_task, join, train_and_test


def without(images, labels=False, positions=False):
    return ImageSet(
        images.images, images.subjects, images.labels if labels else None, images.positions if positions else None
    )


def test_the_task_is_the_class_else_the_position_else_denoising(make_slices):
    full = make_slices(6)
    assert choose_task(full, full, full).unit == "AUC"
    assert choose_task(full, full, without(full, positions=True)).unit == "R2"
    assert choose_task(full, full, without(full)).unit == "dB"


def test_positions_learned_from_good_images_are_worth_more_than_from_scrambled_ones(make_slices):
    train, test = (without(make_slices(8, seed=seed), positions=True) for seed in (1, 2))
    train.positions[:] = test.positions[:] = np.tile(np.sin(np.pi * np.linspace(0, 1, 12)), 8)  # what discs can tell
    scrambled = ImageSet(train.images, positions=np.random.default_rng(0).permutation(train.positions))
    task, units = choose_task(train, test, train), np.arange(len(test)) // 12
    good, replicates = train_and_test(task, train, test, 0, units)
    bad, _ = train_and_test(task, scrambled, test, 0, units)
    assert good > 0.5 > bad
    assert replicates(np.ones((1, 8)))[0] == pytest.approx(good)


def test_joined_sets_hold_all_of_both(make_slices):
    first, second = make_slices(2, seed=1), make_slices(3, seed=2)
    both = join(first, second)
    assert len(both) == 60
    assert both.subject_count == 5
    assert both.labels.tolist() == [*first.labels, *second.labels]
