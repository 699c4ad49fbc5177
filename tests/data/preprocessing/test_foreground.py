from __future__ import annotations

import numpy as np
import pytest

from medsynth.data.preprocessing.foreground import body_of, find_patient, region_of

MM = (3.0, 3.0, 3.0)


def trunk(shape=(100, 120, 30), radii=(36, 52)) -> np.ndarray:
    """CT of an elliptic trunk with two lungs and a bubble of air; axes front to back, right to left, upwards."""
    rows, columns = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in shape[:2]), indexing="ij")
    section = np.full(shape[:2], -1000.0)
    section[(rows / radii[0]) ** 2 + (columns / radii[1]) ** 2 < 1] = 40
    for side in (-1, 1):
        section[((rows + 4) / 22) ** 2 + ((columns - side * 26) / 18) ** 2 < 1] = -820
    section[(rows - 20) ** 2 + columns**2 < 9] = -1000
    return np.repeat(section[..., None], shape[2], 2)


def on_table(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The trunk on a hollow table filled with foam, to which a strap joins it; and where plates and strap are."""
    volume, plates = volume.copy(), np.zeros(volume.shape, bool)
    plates[-9:-7], plates[-3:-1] = True, True
    plates[-9:-1, [0, -1]] = True
    plates[60:-7, 20:22] = True
    plates &= volume < -900
    volume[-7:-3, 1:-1] = -960
    volume[plates] = 100
    return volume, plates


def test_a_body_has_its_gas_and_every_slice_and_no_table():
    alone = trunk()
    inside = find_patient(alone, MM, "ct", "body").mask
    rows, columns = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in alone.shape[:2]), indexing="ij")
    ellipse = ((rows / 36) ** 2 + (columns / 52) ** 2 < 1)[..., None]
    assert (inside != ellipse).mean() < 0.002
    volume, plates = on_table(alone)
    patient = find_patient(volume, MM, "ct", "body")
    assert patient.mask[plates].mean() < 0.01
    assert (patient.mask != ellipse).mean() < 0.004
    assert (patient.shares("S") > 0.7).all()
    assert patient.positions("S")[[0, -1]].tolist() == [0, 1]
    assert patient.air == -1000


def test_the_bounds_of_a_body_come_from_inside_it():
    rng = np.random.default_rng(0)
    volume = np.where(trunk() > -900, rng.normal(300, 20, (100, 120, 30)), np.abs(rng.normal(0, 4, (100, 120, 30))))
    values = find_patient(volume, MM, "mri", "body").values
    assert np.median(values) == pytest.approx(300, abs=2)
    assert np.mean(values < 50) < 0.01


def test_two_legs_are_one_body_and_a_sheet_is_none():
    volume = np.full((60, 120, 10), -1000.0)
    rows, columns = np.meshgrid(np.arange(60) - 30, np.arange(120) - 60, indexing="ij")
    for side, radius in ((-1, 20), (1, 18)):
        volume[rows**2 + (columns - side * 28) ** 2 < radius**2] = 40
    volume[4:6] = 0
    mask = find_patient(volume, MM, "ct", "body").mask
    assert mask[30, [32, 88]].all()
    assert not mask[:8].any()


def test_a_lung_that_the_field_of_view_cuts_belongs_to_the_body():
    assert find_patient(trunk()[35:60, 32:60], MM, "ct", "body").mask.all()


def test_a_head_tapers_and_a_body_is_wide_cut_or_long():
    x, y, z = np.meshgrid(*(np.arange(n) - n // 2 for n in (70, 60, 80)), indexing="ij")
    head = ((x / 32) ** 2 + (y / 26) ** 2 + (z / 36) ** 2) < 1
    assert region_of(head, MM) == "head"
    assert region_of(head[..., 20:45], MM) == "head"
    assert region_of(body_of(trunk(), MM, "ct"), MM) == "body"
    assert region_of(np.ones((40, 40, 20), bool), MM) == "body"
    leg = np.zeros((60, 60, 80), bool)
    leg[20:40, 20:40] = True
    assert region_of(leg, MM) == "body"
