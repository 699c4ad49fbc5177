from __future__ import annotations

import numpy as np
import pytest
import torch

from medsynth.evaluation.metrics.volumes.copies import look_for_copies, shrunk
from medsynth.evaluation.metrics.volumes.registration import Fit, correlation, detail_distance, disguised, fit
from medsynth.evaluation.metrics.volumes.volume_set import VolumeSet


def tensor(volumes: VolumeSet) -> torch.Tensor:
    return torch.from_numpy(volumes.volumes)[:, None]


def test_a_correlation_by_hand_counts_only_what_is_in_the_mask():
    first, second = (torch.tensor(values).view(1, 1, 1, 1, 4) for values in ([1.0, 2, 3, 9], [2.0, 4, 6, -9]))
    assert correlation(first, second, torch.tensor([True, True, True, False]).view(first.shape)).item() == (
        pytest.approx(1)
    )
    assert correlation(first, -second, first < 9).item() == pytest.approx(-1)


def test_a_known_shift_and_mirror_move_voxels_where_they_should(make_volumes):
    volumes = tensor(make_volumes(2, seed=0))
    shift = torch.eye(3, 4).repeat(2, 1, 1)
    shift[:, 0, 3] = 2 * 3 / volumes.shape[4]  # three voxels along the last axis
    moved, inside = Fit(shift)(volumes)
    torch.testing.assert_close(moved[..., :-3], volumes[..., 3:], atol=1e-4, rtol=0)
    assert inside[..., :-3].all()
    assert not inside[..., -2:].any()
    mirror = torch.eye(3, 4).repeat(2, 1, 1)
    mirror[:, 2, 2] = -1
    torch.testing.assert_close(Fit(mirror)(volumes)[0], volumes.flip(2), atol=1e-4, rtol=0)


def test_registration_finds_a_known_affine(make_volumes):
    volumes = tensor(make_volumes(3, seed=1))
    known = torch.eye(3, 4).repeat(3, 1, 1)
    known[:, :, :3] += 0.05 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0))
    known[:, :, 3] = 0.06
    moved, _ = Fit(known)(volumes)
    before = detail_distance(moved, volumes, torch.ones_like(volumes, dtype=torch.bool))
    after = detail_distance(*(lambda found: (found[0], volumes, found[1]))(fit(moved, volumes, elastic=True)(moved)))
    assert (after < 0.6 * before).all()


def test_a_disguised_training_volume_is_found_as_a_copy_and_an_unrelated_one_is_not(make_volumes):
    train, held_out = make_volumes(6, seed=2), make_volumes(4, seed=3)
    copies = disguised(tensor(train)[[2, 5]], seed=5)[:, 0].numpy()
    assert np.abs(copies - train.volumes[[2, 5]]).mean() > 0.02
    both = VolumeSet(np.concatenate([copies, make_volumes(2, seed=4).volumes]))
    found = look_for_copies(train, held_out, both, seed=0)
    assert {(pair.synthetic, pair.train) for pair in found.copies} == {(0, 2), (1, 5)}
    assert found.copied == pytest.approx(2 / 4)
    assert found.copied_floor == 0
    assert found.found >= 0.75
    assert found.closer > 0.5


def test_sides_are_shrunk_alike_to_about_a_length():
    volumes = torch.arange(64.0).view(1, 1, 4, 4, 4)
    assert shrunk(volumes, 2).shape == (1, 1, 2, 2, 2)
    assert shrunk(volumes, 2)[0, 0, 0, 0, 0] == volumes[..., :2, :2, :2].mean()
    assert shrunk(volumes, 28) is volumes or torch.equal(shrunk(volumes, 28), volumes)
