"""Do synthetic images repeat the training images? Read these only once the images are good: noise copies nothing."""

from numpy.typing import ArrayLike

from medsynth.metrics.checks import feature_rows, subject_of_each
from medsynth.metrics.distribution import kth_neighbour, squared_distances


def closer_to_train(fake: ArrayLike, train: ArrayLike, held_out: ArrayLike) -> float:
    """Share of synthetic images nearer to a training image than to a held-out one; 0.5: no copying, 1: all copied.

    The larger of two sets from one distribution is the nearer one more often, by the ratio of the sizes. The odds are
    divided by that ratio, so that 0.5 means the same for all sizes.

    Args:
        fake, train, held_out: (N, D) features of the synthetic images, of those the generator was trained on, and of
            other subjects' that it never saw.
    """
    fake, train = feature_rows(fake, "fake features"), feature_rows(train, "training features")
    held_out = feature_rows(held_out, "held-out features")
    to_train, to_held_out = (squared_distances(fake, real).min(1) for real in (train, held_out))
    nearer = (to_train < to_held_out).mean() + 0.5 * (to_train == to_held_out).mean()
    trained, kept = nearer / len(train), (1 - nearer) / len(held_out)
    return float(trained / (trained + kept))


def authenticity(fake: ArrayLike, train: ArrayLike, train_subjects: ArrayLike) -> float:
    """Share of synthetic images farther from their nearest training image than that one is from other subjects' images.

    In [0, 1]; real images of new subjects have about 0.5, copies 0, images unlike any real one 1.

    Args:
        fake, train: (N, D) and (M, D) features.
        train_subjects: (M,), whose image each row of `train` is.

    Reference: Alaa et al., How faithful is your synthetic data?, arXiv:2102.08921, section 4.
    """
    fake, train = feature_rows(fake, "fake features"), feature_rows(train, "training features")
    subjects = subject_of_each(train_subjects, len(train), "train_subjects")
    distance = squared_distances(fake, train)
    nearest = distance.argmin(1)
    return float((distance.min(1) > kth_neighbour(train, subjects, 1)[nearest]).mean())
