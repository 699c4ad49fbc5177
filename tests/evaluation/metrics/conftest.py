import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsynth.evaluation.metrics.distribution import classifier, features
from medsynth.evaluation.metrics.distribution.image_set import ImageSet


@pytest.fixture
def make_slices():
    """Sets of slices of made-up subjects."""
    return _slices


def _slices(subjects, per_subject=12, size=32, seed=0, ventricles=False):
    """Discs whose radius follows the position, each subject with a size, a brightness and a texture of its own.

    Args:
        ventricles: whether they have a dark middle, wider in every second subject, of class AD.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    images, positions = [], []
    for number in range(subjects):
        stretch, brightness = rng.uniform(0.8, 1.2), rng.uniform(0.5, 0.8)
        texture = 0.1 * gaussian_filter(rng.standard_normal((size, size)), 0.7)
        for position in np.linspace(0, 1, per_subject):
            radius = size * (0.2 + 0.2 * np.sin(np.pi * (0.2 + 0.6 * position)))
            disc = np.hypot(rows * stretch, columns / stretch) < radius
            fine = texture + 0.05 * rng.standard_normal((size, size))
            ventricle = np.hypot(rows, columns) < size * stretch * (0.1 if number % 2 else 0.06)
            dark = np.where(ventricle, 0.3, 1) if ventricles else 1
            images.append((disc * (brightness + fine) * dark).clip(0, 1))
            positions.append(position)
    names = np.repeat([f"{seed}-{number}" for number in range(subjects)], per_subject)
    labels = np.where(np.repeat(np.arange(subjects), per_subject) % 2, "AD", "NC")
    return ImageSet(np.float32(images), names, labels, positions, name="slices")


@pytest.fixture
def short_training(monkeypatch):
    """Networks that are hardly trained, where it is no matter what they learn."""
    monkeypatch.setattr(features, "STEPS", 6)
    monkeypatch.setattr(features, "SNAPSHOTS", (4, 6))
    monkeypatch.setattr(classifier, "STEPS", 5)
