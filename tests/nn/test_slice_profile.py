from __future__ import annotations

import numpy as np
import pytest
import torch

from medsynth.nn.slice_profile import from_slices, profile_weights, put_back, put_back_above, repeat_slices, to_slices

PROFILES = ["box", "gaussian", [0.1, 0.4, 1.0, 0.4, 0.1]]


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


@pytest.mark.parametrize("weights", [[1], [0.5, 0.5, 0.5], [0, 2, 2, 0, 0, 0]])
@pytest.mark.parametrize("fill", [0.6, 1.0, 1.3])
def test_equal_weights_are_the_box_however_many_and_wherever_they_are(weights, fill):
    np.testing.assert_allclose(profile_weights(50, 9, weights, fill), profile_weights(50, 9, "box", fill), atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "slices", "weights", "fill", "expected"),
    [
        (12, 2, [1, 2, 1], 1 / 3, [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0]),  # parts of 1 row, from 1.5 rows on
        (12, 2, [2, 1], 1 / 3, [0, 0, 1 / 2, 1 / 3, 1 / 6, 0]),  # 2 rows are 1.5 parts, the middle at 3/4 of one
        (3, 3, [0.1, 0.4, 1.0, 0.4, 0.1], 1.0, [38 / 49, 11 / 49, 0]),  # parts of 0.6 rows
        (7, 1, [1], 1 / 7, [0, 0, 0, 1, 0, 0, 0]),  # a single row
    ],
)
def test_given_weights_are_as_wide_at_half_their_maximum_as_the_slice_is_thick(rows, slices, weights, fill, expected):
    first = profile_weights(rows, slices, weights, fill)[0]
    np.testing.assert_allclose(first[: len(expected)], expected, atol=1e-12)


def test_many_weights_of_a_gaussian_are_that_gaussian():
    given = np.exp(-4 * np.log(2) * np.linspace(-2, 2, 401) ** 2).tolist()  # in full widths at half maximum
    np.testing.assert_allclose(profile_weights(50, 9, given, 0.8), profile_weights(50, 9, "gaussian", 0.8), atol=1e-4)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fill", [0.6, 1.0, 1.4])
def test_weights_of_a_slice_sum_to_one_and_mirror(profile, fill):
    weights = profile_weights(167, 30, profile, fill)  # slices of 5 mm at 0.9 mm
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[::-1, ::-1], weights, atol=1e-12)


@pytest.mark.parametrize("profile", [*PROFILES, [1.0, 0.4, 0.1]])
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


@pytest.mark.parametrize("profile", PROFILES)
def test_a_ramp_stays_that_ramp_by_splines_and_its_slices_are_at_their_centres(profile):
    rows, slices = 167, 30
    ramp = (torch.arange(rows) + 0.5)[:, None] * (slices / rows) - 0.5
    coarse = torch.arange(slices).float()[:, None]
    torch.testing.assert_close(from_slices(coarse, rows)[30:-30], ramp[30:-30], atol=1e-3, rtol=0)
    inner = slice(2, -2)  # the outer slices are cut off by the field of view
    torch.testing.assert_close(to_slices(ramp, slices, profile, 1.0)[inner], coarse[inner], atol=5e-3, rtol=0)


def test_nearest_repeats_each_slice_over_the_rows_that_it_covers():
    assert repeat_slices(torch.tensor([[1.0], [2.0]]), 5).flatten().tolist() == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("profile", ["box", [1, 3, 2]])
def test_what_is_put_back_above_a_value_stays_above_it_and_gives_the_slices(profile):
    truth = torch.zeros(10, 1)
    truth[2:5] = 2
    slices = to_slices(truth - 1, 4, profile, 1.0)  # of 2.5 rows
    guess = truth.flip(0)  # bright where the slices are dark
    assert put_back(slices, guess, profile, 1.0).min() < -1.1
    found = put_back_above(slices, guess, profile, 1.0, -1.0)
    assert found.min() >= -1
    torch.testing.assert_close(to_slices(found, 4, profile, 1.0), slices, atol=1e-3, rtol=0)
