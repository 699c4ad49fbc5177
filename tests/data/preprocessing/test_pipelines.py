from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.data.io.sources import Source, read_header
from medsynth.data.preprocessing.foreground import BRAIN_HEIGHT_MM, find_patient
from medsynth.data.preprocessing.pipelines import Preprocessing, grey_only, volume_transforms
from medsynth.data.preprocessing.spacing import fit_spacing
from medsynth.errors import MedsynthError

ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]


def prepared(path, *arguments, **options):
    return volume_transforms(Preprocessing(*arguments, **options))({"source": Source(str(path))})


def test_all_48_orientations_give_the_same_slices(tmp_path, head, save):
    assert len(set(ORIENTATIONS)) == 48
    volume = head()
    expected = prepared(save(tmp_path / "v.nii.gz", volume), "mri", None, None, 32)
    for orientation in ORIENTATIONS:
        found = prepared(save(tmp_path / "v.nii.gz", volume, orientation=orientation), "mri", None, None, 32)
        assert torch.equal(found["image"], expected["image"]), orientation
        np.testing.assert_allclose(found["positions"], expected["positions"])


def test_the_front_is_up_and_the_patients_right_is_left(tmp_path, head, save):
    slices = prepared(save(tmp_path / "v.nii.gz", head(), orientation="PSR"), "mri", [0, 400], None, 32)["image"]
    rows, columns = np.nonzero((slices[len(slices) // 2] > 0.99).numpy())
    assert rows.size == 9
    assert rows.max() < 16
    assert columns.max() < 16


def test_percentiles_of_the_head_become_the_ends_and_air_stays_black(tmp_path, head, save):
    volume = head() + np.random.default_rng(1).integers(0, 4, head().shape).astype(np.int16)
    data = prepared(save(tmp_path / "v.nii.gz", volume), "mri", None, None, 32)
    low, high = data["bounds"]
    assert 50 <= low <= 54
    assert 400 <= high <= 404
    assert data["image"][:, 0, 0].tolist() == [-1] * len(data["image"])
    inside = volume[12, 15, 13]
    assert data["image"][len(data["image"]) // 2].max() == 1
    assert (data["image"] - ((inside - low) * 2 / (high - low) - 1)).abs().min() < 1e-4


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (37, 0), (0.01, -1)])
def test_percentile_scaling_does_not_depend_on_units(tmp_path, head, save, scale, offset):
    expected = prepared(save(tmp_path / "a.nii.gz", head()), "mri", None, None, 32)["image"]
    volume = (head() * scale + offset).astype(np.float32)
    found = prepared(save(tmp_path / "b.nii.gz", volume), "mri", None, None, 32)["image"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("window", "expected"), [(None, (-1.0, 0.04, 1.0)), ("brain", (-1.0, 0.0, 1.0)), ([0, 400], (-1.0, -0.8, 1.0))]
)
def test_a_ct_window_by_hand(tmp_path, head, save, window, expected):
    volume = np.where(head() > 0, 40, -1000).astype(np.int16)
    volume[head() == 400] = 1200
    slices = prepared(save(tmp_path / "ct.nii.gz", volume), "ct", window, None, 32)["image"]
    assert slices.unique().tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_fall_by_the_slice_spacing_from_the_top_of_the_head(tmp_path, save):
    volume = np.zeros((20, 20, 60), np.int16)
    volume[4:16, 4:16, :50] = np.arange(100, 112)[:, None, None]
    data = prepared(save(tmp_path / "v.nii.gz", volume, (2, 2, 5)), "mri", None, None, 20)
    assert data["positions"][-1] == 1
    np.testing.assert_allclose(np.diff(data["positions"]), 5 / BRAIN_HEIGHT_MM)
    assert len(data["positions"]) == BRAIN_HEIGHT_MM / 5 + 1
    assert data["positions"][0] == pytest.approx(0)


def test_slices_with_too_little_of_the_head_are_dropped(tmp_path, head, save):
    path = save(tmp_path / "v.nii.gz", head())
    few, many = (len(prepared(path, "mri", None, None, 32, share)["image"]) for share in (0.3, 0.01))
    assert 0 < few < many
    with pytest.raises(RuntimeError, match="applying transform"):
        prepared(path, "mri", None, None, 32, 0.9)


def test_a_head_at_the_edge_is_centred_and_not_cut(tmp_path, save):
    volume = np.zeros((60, 60, 10), np.int16)
    volume[:20, 30:58] = np.random.default_rng(0).integers(100, 200, (20, 28, 10))
    image = prepared(save(tmp_path / "v.nii.gz", volume), "mri", [0, 200], None, 64)["image"][5]
    rows, columns = (np.flatnonzero((image > -0.5).any(axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (28, 20)
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(31.5, abs=1.5)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(31.5, abs=1.5)


def test_noise_far_from_the_head_moves_nothing():
    volume = np.zeros((40, 40, 30), np.float32)
    volume[10:30, 10:30, 5:20] = 100
    clean = find_patient(volume, (2, 2, 2), "mri", "head")
    volume[0, 0, 29] = volume[38, 38, 25] = 300
    noisy = find_patient(volume, (2, 2, 2), "mri", "head")
    assert noisy.box.tolist() == clean.box.tolist() == [[10, 30], [10, 30], [0, 20]]
    assert noisy.shares("S")[10] == pytest.approx(0.25)


def test_resampling_averages_and_keeps_the_field_of_view(tmp_path, head, save):
    volume = np.zeros((64, 64, 8), np.int16)
    volume[8:56, 8:56] = 100 + 100 * (np.indices((48, 48)).sum(0) % 2)[..., None]
    data = prepared(save(tmp_path / "v.nii.gz", volume, (1, 1, 4)), "mri", [0, 200], [4, 4], 16)
    assert data["spacing_mm"] == pytest.approx((4, 4, 4))
    assert data["image"].shape[1:] == (16, 16)
    inside = (data["image"][4, 4:12, 4:12] + 1) * 100
    assert inside.min() > 145  # the mean of the chess board, and no pattern
    assert inside.max() < 155
    assert (data["image"][4] > 0).sum() == 12 * 12


def test_odd_sizes_and_spacings_leave_no_part_of_the_head_out(tmp_path, save):
    volume = np.zeros((31, 45, 6), np.int16)
    volume[1:, 1:] = np.random.default_rng(0).integers(100, 120, (30, 44, 6))
    data = prepared(save(tmp_path / "v.nii.gz", volume, (1.3, 0.9, 4)), "mri", [0, 120], [1.7, 1.7], 32)
    rows, columns = ((data["image"][3] > 0).any(axis).sum() * 1.7 for axis in (1, 0))
    assert rows == pytest.approx(44 * 0.9, abs=1.8)
    assert columns == pytest.approx(30 * 1.3, abs=1.8)


def test_one_spacing_makes_the_largest_head_fit(tmp_path, head, save, caplog):
    small, large = head((24, 30, 26)), head((50, 96, 26))
    paths = [save(tmp_path / "s.nii.gz", small), save(tmp_path / "l.nii.gz", large, orientation="PSR")]
    entries = [{"image": str(path)} for path in paths]
    with caplog.at_level(logging.INFO):
        fitted = fit_spacing(entries, Preprocessing("mri", None, None, 64))
    assert fitted.spacing_mm == pytest.approx([96 * 0.6**0.5 * 2 / 64] * 2, abs=0.02)
    assert len(caplog.records) == 1
    assert fit_spacing(entries, fitted) == fitted
    assert fit_spacing(entries, Preprocessing("mri", None, None, 96)).spacing_mm is None
    data = volume_transforms(fitted)({"source": Source(str(paths[1]))})
    assert read_header(paths[1]).shape[0] == 96
    assert (data["image"][len(data["image"]) // 2] > -1).any(1).sum() in (63, 64)


def test_a_picture_of_the_right_size_is_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    pixels[0, :3] = 0, 255, 7
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        image = prepared(tmp_path / name, "image", None, None, 16)["image"]
        assert torch.equal(((image[0] + 1) * 127.5).round(), torch.from_numpy(pixels).float())
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "rgb.png")
    assert torch.equal(prepared(tmp_path / "rgb.png", "image", None, None, 16)["image"], image)


def test_a_16_bit_picture_keeps_its_steps(tmp_path):
    pixels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 3
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    image = prepared(tmp_path / "deep.png", "image", None, None, 16)["image"][0]
    assert torch.equal(((image + 1) * 32767.5).round(), torch.from_numpy(pixels.astype(np.float32)))


def test_a_picture_of_another_size_is_scaled_whole_and_centred_on_black(tmp_path):
    Image.fromarray(np.full((20, 40), 255, np.uint8)).save(tmp_path / "wide.png")
    image = prepared(tmp_path / "wide.png", "image", None, None, 16)["image"][0]
    assert image[:4].unique().tolist() == image[12:].unique().tolist() == [-1]
    assert image[4:12].min() > 0.9999


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"modality": "mr"}, "choose one of mri, ct, image"),
        ({"window": "brain"}, r"give null or \[low, high\] for modality mri"),
        ({"modality": "ct", "window": "lungs"}, r"full, brain, subdural, soft, bone"),
        ({"window": [5, 5]}, "window is"),
        ({"window": [float("nan"), 5]}, "window is"),
        ({"spacing_mm": [1.0]}, "spacing_mm is"),
        ({"spacing_mm": [0, 1]}, "spacing_mm is"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 6.5}, "image_size is 6.5"),
        ({"min_foreground": 5}, "min_foreground is 5"),
    ],
)
def test_invalid_settings_are_refused(values, line):
    with pytest.raises(MedsynthError, match=line):
        Preprocessing(**{"modality": "mri", "window": None, "spacing_mm": None, "image_size": 64} | values)


def test_preprocessing_survives_its_dictionary():
    preprocessing = Preprocessing("ct", (0, 80), [1, 1.5], 64)
    assert preprocessing.to_dict()["window"] == [0.0, 80.0]
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    with pytest.raises(MedsynthError, match="cannot be used"):
        Preprocessing.from_dict({"modality": "ct", "size": 3})


def test_a_picture_that_keeps_its_pixels_is_cut_or_padded_about_its_middle(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (20, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    image = prepared(tmp_path / "tall.png", "image", None, None, 16, keep_pixels=True)["image"][0]
    assert torch.equal(((image[:, 4:12] + 1) * 127.5).round(), torch.from_numpy(pixels[2:18]).float())
    assert image[:, :4].unique().tolist() == image[:, 12:].unique().tolist() == [-1]


def coloured(path, spread):
    """A grey ramp whose red is so much above its blue."""
    ramp = np.tile(np.arange(0, 128, 8, dtype=np.uint8), (16, 1))
    Image.fromarray(np.stack([ramp + spread, ramp, ramp], -1).astype(np.uint8)).save(path)
    return path


def test_colours_are_refused_unless_they_are_to_be_converted_to_grey(tmp_path):
    path = coloured(tmp_path / "a.png", 100)
    with pytest.raises(MedsynthError, match="shows colours: give --grey true"):
        grey_only(Image.open(path))
    image = prepared(path, "image", None, None, 16, grey=True)["image"][0]
    luma = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
    assert torch.equal(((image + 1) * 127.5).round(), torch.from_numpy(luma))


def test_the_tint_of_jpeg_and_a_single_coloured_pixel_do_not_count_as_colour(tmp_path):
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[5, 5] = 255, 0, 0
    Image.fromarray(dot).save(tmp_path / "dot.png")
    for path in (coloured(tmp_path / "tint.png", 20), tmp_path / "dot.png"):
        picture = Image.open(path)
        assert np.array_equal(grey_only(picture), picture.convert("L"))
