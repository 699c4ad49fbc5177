from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medsynth.data.datalist.registration import align, better_shift, distance_mm, mutual_information, resample
from medsynth.data.io import itk
from medsynth.data.phantom.anatomy import build_head
from medsynth.data.phantom.phantom import draw_modality

STILL = np.eye(4)
HEAD = build_head(3, "NC", 5.0)
T1W, FLAIR = (draw_modality(HEAD, modality, 3).astype(np.float32) for modality in ("T1w", "FLAIR"))


def rigid(degrees: tuple[float, float, float], mm: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = mm
    return matrix


@pytest.fixture(scope="module")
def pair():
    """T1w and FLAIR of one made-up head; the FLAIR on a smaller grid, its header off by this move."""

    def build(move: np.ndarray = STILL) -> tuple[sitk.Image, sitk.Image]:
        corner = np.eye(4)
        corner[:3, 3] = 2, 3, 2
        return itk.image_of(T1W, HEAD.affine), itk.image_of(FLAIR[2:-1, 3:, 2:], move @ HEAD.affine @ corner)

    return build


def test_an_aligned_pair_is_not_moved_and_the_result_is_the_same_every_time(pair):
    found = align(*pair())
    assert align(*pair()).transform.GetParameters() == found.transform.GetParameters()
    assert found.offset_mm < 1
    assert not found.misaligned
    assert found.after > found.before - 0.01
    assert found.before > 1.5 * found.chance


@pytest.mark.parametrize(("degrees", "mm"), [((4, -3, 2), (-9, 4, 6)), ((25, 0, 10), (30, -60, 90))])
def test_a_move_of_the_header_is_found_and_undone(pair, degrees, mm):
    source, target = pair(rigid(degrees, mm))
    found = align(source, target)
    assert found.misaligned
    truth = np.diag([-1, -1, 1, 1]) @ rigid(degrees, mm) @ np.diag([-1, -1, 1, 1])  # in ITK's coordinates
    points = 70 * np.vstack([np.eye(3), -np.eye(3)])
    errors = [np.subtract(found.transform.TransformPoint(p), (truth @ [*p, 1])[:3]) for p in points]
    assert np.linalg.norm(errors, axis=1).max() < 2
    assert better_shift(source, resample(target, source, found.transform)) is None


def test_a_shift_that_aligns_better_is_returned(pair):
    source, target = pair()
    shifted = itk.image_of(np.roll(itk.voxels_of(resample(target, source)), 1, axis=1), HEAD.affine)
    assert better_shift(source, shifted) == (0, 1, 0)


def test_distance_of_two_transforms_by_hand():
    turned, still = sitk.Euler3DTransform(), sitk.Euler3DTransform()
    still.SetTranslation((3, 4, 0))
    assert distance_mm(still, turned, (10, 20, 30)) == pytest.approx(5)
    turned.SetRotation(0, 0, math.pi)
    # points of a ball of 80 mm, half a turn: 2 r away, r from the axis; the mean of r squared is 2/5 of 80 squared
    assert distance_mm(turned, sitk.Euler3DTransform(), (0, 0, 0)) == pytest.approx(2 * 80 * math.sqrt(2 / 5))


def test_volumes_that_do_not_overlap_share_no_information(pair):
    source, target = pair(rigid((0, 0, 0), (1000, 0, 0)))
    assert mutual_information(source, target, sitk.Euler3DTransform()) == 0


def test_a_grid_in_another_order_is_resampled_exactly():
    source = itk.image_of(T1W, HEAD.affine)
    turn = np.array([[0, 0, -1, T1W.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = itk.image_of(np.ascontiguousarray(T1W.transpose(1, 2, 0)[:, :, ::-1]), HEAD.affine @ turn)
    np.testing.assert_allclose(itk.voxels_of(resample(turned, source)), T1W, atol=0.01)


def test_resampling_stays_in_range_and_puts_the_lowest_value_outside(pair):
    source, target = pair(rigid((0, 0, 0), (1.7, 0, 40)))
    moved = itk.voxels_of(resample(target + 100, source))
    low, high = FLAIR[2:-1, 3:, 2:].min() + 100, FLAIR[2:-1, 3:, 2:].max() + 100
    assert moved.min() == low
    assert moved.max() <= high
    assert (moved[:, :, 0] == low).all()


def test_a_finer_target_is_averaged_over_the_source_s_voxels():
    fine = np.zeros((32, 32, 32), np.float32)
    fine[::2] = 100  # stripes that a grid of 4 mm cannot hold
    target = itk.image_of(fine, np.diag([1.0, 1.0, 1.0, 1.0]))
    source = itk.image_of(np.zeros((8, 8, 8), np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    np.testing.assert_allclose(itk.voxels_of(resample(target, source))[2:-2, 2:-2, 2:-2], 50, atol=1)


def test_noise_never_counts_as_an_aligned_pair():
    volumes = np.random.default_rng(0).normal(size=(2, 24, 24, 24)).astype(np.float32)
    found = align(*(itk.image_of(volume, np.diag([4.0, 4.0, 4.0, 1.0])) for volume in volumes))
    assert found.failed
    assert found.misaligned
