from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medsynth.models.flow import learning
from medsynth.models.flow.label_map_prior import LabelMapPrior, largest
from medsynth.models.flow.label_maps import told


@pytest.fixture
def prior() -> LabelMapPrior:
    """Of 3 classes on 16 x 16 pixels, under 2 classes of images."""
    torch.manual_seed(0)
    return LabelMapPrior(3, 16, 4, 0.0, num_classes=2, use_position=False)


def sides(labels: Tensor) -> Tensor:
    """Label maps: class 1 at the left in images of class 0, class 2 at the right in those of class 1."""
    maps = torch.zeros(len(labels), 1, 16, 16)
    maps[labels == 0, :, :, 2:7], maps[labels == 1, :, :, 9:14] = 1, 2
    return maps


def test_a_pixel_gets_the_class_of_the_largest_share_between_the_middles_of_quarters():
    shares = torch.tensor([[1, 1, 1, 0.4], [0, 0, 0, 0.6]])  # of two classes in the quarters of one place
    # the share of class 1 at (row, column) is 0.6 w(row) w(column), where w is 0, 1/4, 3/4 and 1
    assert largest(shares.view(1, 8, 1, 1), 4)[0, 0].tolist() == [[0, 0, 0, 0]] * 3 + [[0, 0, 0, 1]]
    assert largest(shares.view(1, 8, 1, 1), 2)[0, 0].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("factor", [2, 4])
def test_label_maps_of_whole_quarters_come_back_from_their_shares(factor):
    torch.manual_seed(0)
    quarters = torch.randint(5, (2, 1, 6, 10), dtype=torch.uint8)
    maps = quarters.repeat_interleave(factor // 2, dim=2).repeat_interleave(factor // 2, dim=3)
    assert torch.equal(largest(told(maps, 5, factor)[:, :-1], factor), maps)


def test_shares_are_centred_by_the_frequency_of_their_class_and_scaled_alike(prior):
    maps = torch.zeros(4, 1, 16, 16)
    maps[0] = 1  # a quarter of all pixels; 2 is in none
    prior.fit(maps, torch.zeros(4).long(), torch.rand(4), torch.empty(4, 0))
    assert prior.mean.flatten().tolist() == [0.75] * 4 + [0.25] * 4 + [0.0] * 4
    latents = told(maps, 3, 4)[:, :-1]
    assert (prior.normalize(latents) - prior.normalize(1 - latents)).abs().unique().tolist() == [2]


def test_it_draws_such_label_maps_as_it_learned_of_the_requested_class(prior, monkeypatch):
    monkeypatch.setattr(learning, "AUGMENTED", 0.0)
    labels = torch.arange(16) % 2
    facts = {"label": labels, "position": torch.full((16,), torch.nan), "covariates": torch.empty(16, 0)}
    prior.fit(sides(labels), *facts.values())
    optimizer = torch.optim.Adam(prior.parameters(), 0.004)
    for _ in range(80):
        optimizer.zero_grad()
        prior.loss(sides(labels), facts).backward()
        optimizer.step()
    for label in (0, 1):
        found, drawn, *_ = prior.sample(16, 3, label=label)
        assert (found.dtype, found.shape, set(drawn.tolist())) == (torch.uint8, (16, 1, 16, 16), {label})
        assert (found == sides(drawn)).float().mean() > 0.85  # 0.69 of background alone
    assert torch.equal(prior.sample(16, 3, label=1)[0], found)
    assert not torch.equal(prior.sample(16, 4, label=1)[0], found)
