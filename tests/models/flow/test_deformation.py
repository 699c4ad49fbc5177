from __future__ import annotations

import torch
from torch import Tensor

from medsynth.models.flow.deformation import deformed, opposites

NAMES = ("background", "left lobe", "right lobe")


def halves() -> Tensor:
    """A box whose left half in the picture is class 2, and the right half class 1."""
    indices = torch.zeros(1, 32, 32, dtype=torch.uint8)
    indices[0, 8:24, 8:16], indices[0, 8:24, 16:24] = 2, 1
    return indices


def test_classes_change_sides_by_their_names():
    names = ("background", "Left-Hippocampus", "Right-Hippocampus", "brainstem", "thalamus_L", "thalamus_R", "left eye")
    assert opposites(names) == [0, 2, 1, 3, 5, 4, 6]
    assert opposites(("leftLung", "rightLung", "ctx-lh-cuneus", "ctx-rh-cuneus")) == [1, 0, 3, 2]


def test_a_mirrored_map_keeps_left_left():
    found = [deformed(halves(), NAMES, 0.0, seed, True) for seed in range(8)]
    assert all(torch.equal(one, halves()) for one in found)
    plain = [deformed(halves(), ("background", "a", "b"), 0.01, seed, True) for seed in range(8)]
    sides = {int(one[0, 16, 10]) for one in plain}
    assert sides == {1, 2}  # some are mirrored, and names without sides do not change
    assert {int(deformed(halves(), NAMES, 0.01, seed, True)[0, 16, 10]) for seed in range(8)} == {2}
    assert {int(deformed(halves(), ("", "a", "b"), 0.01, seed, False)[0, 16, 10]) for seed in range(8)} == {2}


def test_deformed_maps_differ_by_their_seed_and_strength_and_hold_the_same_classes():
    one, same, other = (deformed(halves(), NAMES, 1.0, seed, True) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert set(one.unique().tolist()) == {0, 1, 2}
    weak, strong = (
        sum((deformed(halves(), NAMES, strength, seed, True) != halves()).float().mean() for seed in range(10))
        for strength in (0.3, 1.5)
    )
    assert 0 < weak < strong
