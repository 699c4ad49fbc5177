import numpy as np
import pytest
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import PAIRED
from medsynth.evaluation.metrics.paired.pair_measures import (
    body_mask,
    check_geometry,
    evaluate_pair,
    slice_consistency,
    summarize,
)


def pair(shape=(20, 18, 16)):
    rng = np.random.default_rng(0)
    target = rng.uniform(-1000, 1500, shape).astype(np.float32)
    return target + rng.normal(0, 50, shape).astype(np.float32), target


def test_errors_equal_scikit_images_inside_the_mask():
    prediction, target = pair()
    mask = np.zeros(target.shape, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    row = evaluate_pair(prediction, target, mask, "ct")
    x, y = target[mask].astype(float), prediction[mask].astype(float)
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=4095), abs=1e-9)
    assert row["nrmse"] == pytest.approx(normalized_root_mse(x, y, normalization="min-max"), abs=1e-12)
    assert row["mae"] == pytest.approx(np.abs(x - y).mean())


def test_tissues_apart_by_hand():
    target = np.full((8, 8, 8), -1000.0)
    target[2:] = 40.0
    target[5:] = 700.0
    prediction = target.copy()
    prediction[:2] += 10
    prediction[2:5] -= 20
    prediction[5:] += 30
    row = evaluate_pair(prediction, target, np.ones(target.shape, bool), "ct")
    assert (row["mae_air"], row["mae_soft"], row["mae_bone"]) == (10, 20, 30)
    assert row["mae"] == pytest.approx((2 * 10 + 3 * 20 + 3 * 30) / 8)
    assert row["bias"] == pytest.approx((2 * 10 - 3 * 20 + 3 * 30) / 8)
    assert row["bone_dice"] == 1


def test_bone_overlap_by_hand():
    target = np.zeros((8, 8, 8))
    target[:4] = 251
    prediction = np.zeros((8, 8, 8))
    prediction[3:6] = 900
    assert evaluate_pair(prediction, target, np.ones(target.shape, bool), "ct")["bone_dice"] == pytest.approx(2 / 7)


def test_slices_follow_each_other_along_their_own_axis():
    target = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 8, 8)).copy()
    flickering = target + np.where(np.arange(12) % 2, 1.0, -1.0)[:, None, None]
    row = evaluate_pair(flickering, target, np.ones(target.shape, bool), "mri", (0, 12), slice_axis=0)
    assert row["slice_flicker"] == pytest.approx(1.0)


def test_limits_of_agreement_hold_the_differences():
    target = np.zeros((9, 9))
    prediction = np.where(np.arange(81).reshape(9, 9) % 2, 3.0, 1.0)
    row = evaluate_pair(prediction, target, np.ones((9, 9), bool), "mri", (0, 10))
    differences = prediction.ravel()
    assert row["bias"] == pytest.approx(differences.mean())
    assert row["agreement_high"] - row["agreement_low"] == pytest.approx(2 * 1.96 * differences.std(ddof=1))
    assert "nrmse" not in row  # the target has no range


def test_every_value_is_described_in_the_catalog():
    row = evaluate_pair(*pair(), np.ones((20, 18, 16), bool), "ct")
    assert set(row) - set(PAIRED) == {"mean_prediction", "mean_target"}


def test_flicker_between_slices_is_seen_and_a_constant_error_is_none():
    target = np.broadcast_to(np.arange(12.0), (8, 8, 12)).copy()
    mask = np.ones(target.shape, bool)
    flickering = target + np.where(np.arange(12) % 2, 1.0, -1.0)
    assert slice_consistency(target + 5, target, mask) == {"slice_step_ratio": 1.0, "slice_flicker": 0.0}
    found = slice_consistency(flickering, target, mask)
    assert found["slice_flicker"] == pytest.approx(1.0)
    assert found["slice_step_ratio"] == pytest.approx((6 * 3 + 5 * 1) / 11)


def test_body_mask_is_the_largest_part_with_its_holes_filled():
    target = np.full((20, 20, 20), -1000.0)
    target[4:16, 4:16, 4:16] = 40
    target[8:11, 8:11, 8:11] = -900
    target[0, 0, 0] = 500
    mask = body_mask(target, "ct")
    assert mask.sum() == 12**3
    assert mask[9, 9, 9]


@pytest.mark.parametrize(
    ("shape", "shift", "message"),
    [((5, 6, 7), 0.0, "5 x 6 x 7 and 5 x 6 x 8 voxels"), ((5, 6, 8), 1.5, "1.5 mm apart")],
)
def test_another_geometry_is_an_error(shape, shift, message):
    affine = np.eye(4)
    moved = affine.copy()
    moved[0, 3] = shift
    with pytest.raises(MedsynthError, match=message):
        check_geometry(shape, moved, (5, 6, 8), affine, "sub-1")


def test_another_spacing_is_an_error_though_the_origin_is_the_same():
    with pytest.raises(MedsynthError, match="mm apart"):
        check_geometry((50, 60, 8), np.diag([1.01, 1, 1, 1]), (50, 60, 8), np.eye(4), "sub-1")
    check_geometry((50, 60, 8), np.eye(4) + 1e-6, (50, 60, 8), np.eye(4), "sub-1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.full((9, 9), np.nan)}, "prediction: 81 values are NaN"),
        ({"prediction": np.zeros((9, 8))}, "needs one shape"),
        ({"mask": np.zeros((9, 9), bool)}, "mask is empty"),
        ({"data_range": None}, "give data_range"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(change, message):
    given = {"prediction": np.zeros((9, 9)), "target": np.ones((9, 9)), "mask": np.ones((9, 9), bool)}
    given |= {"modality": "mri", "data_range": (0, 1)} | change
    with pytest.raises(MedsynthError, match=message):
        evaluate_pair(**given)


def test_summary_is_the_mean_of_subjects_with_an_interval_and_the_best_baseline():
    rows = [{"mae": value, "mean_target": 0.0} for value in (1.0, 2.0, 6.0)]
    simple = {"intensity lookup": [{"mae": 5.0}], "histogram matching": [{"mae": 9.0}]}
    (mae,) = summarize(rows, "ct", seed=0, baselines=simple)
    assert (mae.value, mae.unit, mae.n, mae.baseline) == (3.0, "HU", 3, 5.0)
    assert mae.baselines == {"intensity lookup": 5.0, "histogram matching": 9.0}
    assert mae.spread == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert 0 <= mae.interval[0] < 3 < mae.interval[1] <= 8


def test_summary_says_where_a_tissue_is_missing():
    (air,) = summarize([{"mae_air": 4.0}, {}], "ct", seed=0)[:1]
    assert (air.value, air.n, air.interval, air.note) == (4.0, 1, None, "in 1 of 2 subjects")
