from __future__ import annotations

import numpy as np
import pytest
import torch

from medsynth.nn.slice_profile import from_slices, profile_weights, put_back, put_back_above, repeat_slices, to_slices


@pytest.mark.parametrize(
    ("rows", "slices", "fill", "expected"),
    [
        (6, 2, 1.0, [[1 / 3, 1 / 3, 1 / 3, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]]),
        (6, 2, 1 / 3, [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]]),  # gaps of two rows
        (5, 2, 1.0, [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]]),  # 2.5 rows a slice
        (4, 2, 2.0, [[1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 3, 1 / 3, 1 / 3]]),  # what lies beyond takes no part
    ],
)
def test_a_box_is_the_share_of_each_row_that_it_covers(rows, slices, fill, expected):
    np.testing.assert_allclose(profile_weights(rows, slices, "box", fill), expected, atol=1e-12)


def test_a_gaussian_is_half_as_high_at_half_the_thickness():
    weights = profile_weights(1001, 7, "gaussian", 0.6)  # 143 rows a slice, of 85.8 thick
    assert weights[3, 500 - 43] / weights[3, 500] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize("fill", [0.6, 1.0, 1.4])
def test_weights_of_a_slice_sum_to_one_and_mirror(profile, fill):
    weights = profile_weights(167, 30, profile, fill)  # slices of 5 mm at 0.9 mm
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[::-1, ::-1], weights, atol=1e-12)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize("fill", [0.6, 1.0, 1.4])
def test_what_was_measured_is_put_back_at_factors_that_are_not_whole(profile, fill):
    random = torch.Generator().manual_seed(0)
    slices, fine = torch.rand(2, 30, 4, generator=random), torch.rand(2, 167, 4, generator=random)
    found = put_back(slices, fine, profile, fill)
    torch.testing.assert_close(to_slices(found, 30, profile, fill), slices, atol=1e-4, rtol=0)
    again = put_back(slices, found, profile, fill)
    torch.testing.assert_close(again, found, atol=1e-4, rtol=0)


def test_what_is_put_back_into_whole_boxes_is_the_same_in_each_row_of_a_slice():
    change = put_back(torch.tensor([[[1.0], [4.0]]]), torch.zeros(1, 6, 1), "box", 1.0)
    assert change.flatten().tolist() == pytest.approx([1, 1, 1, 4, 4, 4], abs=1e-5)


def test_slices_that_overlap_too_much_to_be_told_apart_do_not_blow_up():
    slices = torch.tensor([1.0, -1.0]).repeat(15)[:, None]  # neighbours that share half of each: nothing passes
    assert put_back(slices, torch.zeros(90, 1), "box", 2.0).abs().max() < 100


def test_a_ramp_stays_that_ramp_by_splines_and_its_slices_are_at_their_centres():
    rows, slices = 167, 30
    ramp = (torch.arange(rows) + 0.5)[:, None] * (slices / rows) - 0.5
    coarse = torch.arange(slices).float()[:, None]
    torch.testing.assert_close(from_slices(coarse, rows)[30:-30], ramp[30:-30], atol=1e-3, rtol=0)
    torch.testing.assert_close(to_slices(ramp, slices, "box", 1.0), coarse, atol=5e-3, rtol=0)


def test_nearest_repeats_each_slice_over_the_rows_that_it_covers():
    assert repeat_slices(torch.tensor([[1.0], [2.0]]), 5).flatten().tolist() == [1, 1, 2, 2, 2]


def test_what_is_put_back_above_a_value_stays_above_it_and_gives_the_slices():
    truth = torch.zeros(10, 1)
    truth[2:5] = 2
    slices = to_slices(truth - 1, 4, "box", 1.0)  # of 2.5 rows
    guess = truth.flip(0)  # bright where the slices are dark
    assert put_back(slices, guess, "box", 1.0).min() < -1.1
    found = put_back_above(slices, guess, "box", 1.0, -1.0)
    assert found.min() >= -1
    torch.testing.assert_close(to_slices(found, 4, "box", 1.0), slices, atol=1e-3, rtol=0)
