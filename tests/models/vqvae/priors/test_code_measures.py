from __future__ import annotations

import math

import pytest
import torch

from medsynth.models.vqvae.priors.code_measures import histogram_divergence, pair_divergence


def test_histogram_divergence_by_hand():
    real = torch.tensor([[[0, 0], [0, 1]]])
    fake = torch.tensor([[[0, 1], [1, 1]]])
    p, q = (3.5 / 5, 1.5 / 5), (1.5 / 5, 3.5 / 5)  # each code counted half a time more
    wanted = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert histogram_divergence(real, fake, 2) == pytest.approx(wanted)
    assert histogram_divergence(real, real, 2) == 0


def test_a_code_that_is_never_generated_leaves_the_divergence_finite():
    real, fake = torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]])
    assert 0 < histogram_divergence(real, fake, 2) < 1


def test_pair_divergence_by_hand():
    real = torch.tensor([[[0, 1], [0, 1]]])  # side by side: 01, 01; one above the other: 00, 11
    fake = torch.tensor([[[0, 1], [1, 0]]])  # side by side: 01, 10; one above the other: 01, 10
    across = (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert pair_divergence(real, fake, 2) == pytest.approx((across + math.log(2)) / 2)
    assert pair_divergence(real, real, 2) == 0


def test_pairs_tell_shuffled_maps_that_the_histogram_cannot():
    torch.manual_seed(0)
    real = torch.arange(8).repeat(20, 8, 1)
    shuffled = real.flatten()[torch.randperm(real.numel())].view_as(real)
    assert histogram_divergence(real, shuffled, 8) == 0
    assert pair_divergence(real, shuffled, 8) > 0.3
