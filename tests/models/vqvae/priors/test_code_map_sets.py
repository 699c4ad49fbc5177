from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from medsynth.models.vqvae.network import SliceVqVae
from medsynth.models.vqvae.priors.code_map_sets import CodeMaps


class Slices:
    """Ten random slices; what code maps need of a dataset."""

    def __init__(self) -> None:
        self.images = torch.rand(10, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        return self.images[indices]

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"label": torch.from_numpy(indices % 3), "position": torch.from_numpy(indices / 10)}


@pytest.fixture
def stage_one() -> SliceVqVae:
    torch.manual_seed(0)
    network = SliceVqVae(16, [8, 16], 1, 32, 4, cosine=False).eval()
    network.codebook.start(network.encode(Slices().images[:, None]), seed=0)
    return network


def test_maps_are_what_stage_one_makes_of_the_slices(stage_one):
    slices = Slices()
    index = torch.tensor([7, 2])
    indices = CodeMaps(slices, stage_one).of(index)
    assert torch.equal(indices, stage_one.encode_indices(slices.images[index][:, None]))


def test_mirrored_slices_are_drawn_as_often_as_the_others(stage_one):
    slices = Slices()
    maps = CodeMaps(slices, stage_one, flip=True)
    torch.manual_seed(0)
    drawn = maps.of(torch.full((200,), 3))
    ways = [stage_one.encode_indices(image[None, None])[0] for image in (slices.images[3], slices.images[3].flip(-1))]
    counts = [(drawn == way).all(dim=(1, 2)).sum().item() for way in ways]
    assert sum(counts) == 200
    assert min(counts) > 70


def test_conditions_are_those_of_every_slice(stage_one):
    labels, positions = CodeMaps(Slices(), stage_one, flip=True).conditions()
    assert labels.tolist() == [0, 1, 2] * 3 + [0]
    assert positions.tolist() == [i / 10 for i in range(10)]


def test_a_collapsed_codebook_is_warned_of(caplog, stage_one):
    with caplog.at_level(logging.WARNING):
        CodeMaps(Slices(), stage_one)
        assert "collapsed" not in caplog.text
        stage_one.codebook.codes[2:] = 100.0  # out of reach
        CodeMaps(Slices(), stage_one)
    assert "codebook has collapsed: its 32 codes are used like 2" in caplog.text
