"""New label maps from given ones: moved and bent as the flow's training images are, left and right exchanged."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from medsynth.models.flow.label_maps import moved_shares, one_hot
from medsynth.models.flow.learning import ELASTIC_GRID, grids_of
from medsynth.models.flow.network import AUGMENTATION_NUMBERS

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l", "lh": "rh", "rh": "lh"}


def deformed(indices: Tensor, names: Sequence[str], strength: float, seed: int, may_mirror: bool) -> Tensor:
    """Turn, scale, shift and bend a label map, and mirror it half of the time.

    Args:
        indices: (1, H, W) of the classes.
        names: of the classes; those of a mirrored map that differ in left and right alone are exchanged.
        strength: 1: as far as training images are.
        seed: the same one gives the same label map.
        may_mirror: whether columns run from one side of the patient to the other.

    Returns: like `indices`.
    """
    random = torch.Generator().manual_seed(seed)
    numbers = (2 * torch.rand(1, AUGMENTATION_NUMBERS, generator=random) - 1) * strength
    numbers[:, 0] = (numbers[:, 0] > 0) & may_mirror
    numbers[:, 5] = numbers[:, 5].abs()
    waves = torch.randn(1, 2, ELASTIC_GRID, ELASTIC_GRID, generator=random)
    grid = grids_of(numbers, waves, indices.shape[-2:])
    found = moved_shares(one_hot(indices[None], len(names)), grid).argmax(dim=1)
    if numbers[0, 0]:
        found = torch.tensor(opposites(names))[found]
    return found.to(indices.dtype)


def opposites(names: Sequence[str]) -> list[int]:
    """Of each class, the index of that on the other side by its name; its own, if there is none."""
    known = {_normal(name): index for index, name in enumerate(names)}
    return [known.get(_normal(_exchanged(name)), index) for index, name in enumerate(names)]


def _exchanged(name: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda word: SIDES.get(word[0].lower(), word[0]), _words(name))


def _normal(name: str) -> str:
    return _words(name).lower()


def _words(name: str) -> str:
    """With `leftHippocampus` as `left Hippocampus`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
