from __future__ import annotations

import torch

from medsynth.models.superres.patches import random_patches, random_symmetry


def test_every_symmetry_of_the_square_comes_up_and_nothing_else():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = random_symmetry(image.expand(16, 1, 3, 3), torch.arange(16) / 16)
    found = {tuple(one.flatten().tolist()) for one in turned}
    expected = {tuple(torch.rot90(x, k, (2, 3)).flatten().tolist()) for x in (image, image.flip(-1)) for k in range(4)}
    assert found == expected


def test_patches_of_all_views_show_the_same_place():
    torch.manual_seed(0)
    coarse = torch.rand(20, 2, 7, 9)
    fine = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    low, high = random_patches([coarse, fine], 5, torch.ones(20, 1, 7, 9), torch.rand(20).double())
    assert low.shape == (20, 2, 5, 5)
    assert torch.equal(high, low.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_patches_are_centred_where_it_is_likely_as_far_as_edges_allow():
    likely = torch.zeros(2, 1, 8, 8)
    likely[0, 0, 4, 5] = likely[1, 0, 0, 7] = 1
    rows = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2, 1, 8, 8)
    (patches,) = random_patches([rows], 3, likely, torch.tensor([0.1, 0.9]).double())
    assert patches[0, 0, 1, 1] == 4 * 8 + 5
    assert patches[1, 0].flatten().tolist() == [5, 6, 7, 13, 14, 15, 21, 22, 23]


def test_the_draws_choose_places_in_order_of_their_weights():
    likely = torch.zeros(4, 1, 4, 4)
    likely[:, 0, 1, 1], likely[:, 0, 2, 2] = 1, 3
    rows = torch.arange(16.0).reshape(1, 1, 4, 4).expand(4, 1, 4, 4)
    (patches,) = random_patches([rows], 1, likely, torch.tensor([0.1, 0.24, 0.26, 0.99]).double())
    assert patches.flatten().tolist() == [5, 5, 10, 10]
