from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing import region
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.spacing import fit_spacing, slice_side
from medsynth.errors import MedsynthError

MRI = Preprocessing("mri", None, None, 20)


@pytest.fixture
def entry(tmp_path, save):
    """A block of so many voxels from left to right and back to front, in a larger field of view."""

    def write(name, wide, deep, mm=(2, 2, 2), field=(48, 48, 20)):
        volume = np.zeros(field, np.int16)
        block = np.random.default_rng(0).integers(100, 200, (wide, deep, field[2] - 4))
        volume[4 : 4 + wide, 6 : 6 + deep, 2:-2] = block
        return {"image": str(save(tmp_path / f"{name}.nii.gz", volume, mm)), "subject": name}

    return write


def test_the_largest_head_just_fits_and_is_not_cut(tmp_path, entry):
    entries = [entry("a", 20, 30), entry("b", 22, 36)]
    dataset = SliceDataset(entries, MRI, cache_dir=tmp_path)
    assert dataset.spacing_mm == pytest.approx((3.6, 3.6))  # 36 x 2 mm in 20 pixels
    image = dataset.images[-8]
    assert (image > -0.9).any(1).sum() == 20
    assert (image > -0.9).any(0).sum() == pytest.approx(22 * 2 / 3.6, abs=1)


def test_heads_that_fit_stay_as_they_are_in_a_larger_field_of_view(tmp_path, entry):
    entries = [entry("a", 14, 18), entry("b", 12, 20)]
    dataset = SliceDataset(entries, MRI, cache_dir=tmp_path)
    assert dataset.preprocessing.spacing_mm is None
    assert (dataset.images[-8] > -0.9).any(1).sum() == 20


def test_an_implausibly_large_head_does_not_count(tmp_path, entry, caplog):
    entries = [entry("a", 20, 30), entry("b", 22, 36, mm=(20, 20, 20))]
    with caplog.at_level(logging.INFO):
        fitted = fit_spacing(entries, MRI, tmp_path)
    assert fitted.spacing_mm == (3.0, 3.0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("1 heads seem more than 270 mm wide")
    assert "b.nii.gz" in lines[0]
    assert lines[1] == "heads are up to 60 mm wide: resampled to 3 mm, so that each fits into 20 pixels"


def test_specks_connected_with_a_head_do_not_widen_it(tmp_path, save, entry):
    volume = np.zeros((48, 48, 40), np.int16)
    volume[8:40, 8:40, 2:38] = np.random.default_rng(0).integers(100, 200, (32, 32, 36))
    volume[40:46, 20, 20] = 150
    entry = {"image": str(save(tmp_path / "v.nii.gz", volume)), "subject": "v"}
    assert fit_spacing([entry], MRI, tmp_path).spacing_mm == pytest.approx((3.2, 3.2))


def test_volumes_are_measured_once_and_not_where_headers_suffice(tmp_path, entry, monkeypatch):
    entries, looked = [entry("a", 20, 30)], []
    measure = region.measure
    monkeypatch.setattr(region, "measure", lambda *a, **k: looked.append(1) or measure(*a, **k))
    first = fit_spacing(entries, MRI, tmp_path)
    assert fit_spacing(entries, MRI, tmp_path) == first
    fit_spacing(entries, replace(MRI, image_size=16), tmp_path)
    fit_spacing(entries, replace(MRI, image_size=48), tmp_path)
    assert len(looked) == 1


def test_pairs_are_measured_by_their_source(tmp_path, entry):
    pair = {"source": entry("a", 20, 30)["image"], "target": entry("b", 22, 40)["image"], "subject": "a"}
    assert fit_spacing([pair], MRI, tmp_path).spacing_mm == (3.0, 3.0)


def test_a_volume_that_cannot_be_read_is_skipped(tmp_path, entry):
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    entries = [entry("a", 20, 30), {"image": str(tmp_path / "bad.nii.gz"), "subject": "b"}]
    assert fit_spacing(entries, MRI, tmp_path).spacing_mm == (3.0, 3.0)
    assert fit_spacing(entries[1:], MRI, tmp_path) == MRI


def test_slices_that_keep_their_pixels_are_as_large_as_the_largest(tmp_path, entry):
    entries = [entry("a", 20, 18, field=(50, 30, 20)), entry("b", 12, 20, field=(20, 41, 20))]
    assert slice_side(entries, "axial", None, 4, None) == 52
    assert slice_side(entries, "axial", (4.0, 4.0), 2, None) == 26
    assert slice_side(entries, "axial", None, 4, 32) == 32
    with pytest.raises(MedsynthError, match="image_size 33 is not a multiple of scale 4: give null, 32 or 36"):
        slice_side(entries, "axial", None, 4, 33)


def test_slices_that_keep_their_pixels_are_cut_about_the_head(tmp_path, entry):
    keeping = replace(MRI, keep_pixels=True)
    dataset = SliceDataset([entry("a", 30, 34)], keeping, cache_dir=tmp_path)
    assert dataset.spacing_mm == (2.0, 2.0)
    assert dataset.images[-8].shape == (20, 20)
    assert (dataset.images[-8] > -0.999).mean() > 0.9


def test_the_region_is_told_from_the_patients_and_a_mix_is_named(tmp_path, entry, save, caplog):
    heads = [entry("a", 20, 30), entry("b", 22, 36)]
    body = np.zeros((100, 60, 20))
    body[2:98, 5:55] = 100 + np.random.default_rng(0).random((96, 50, 20))
    bodies = [{"image": str(save(tmp_path / "c.nii.gz", np.float32(body), (4, 4, 4))), "subject": "c"}]
    unknown = replace(MRI, region=None)
    with caplog.at_level(logging.INFO):
        assert region.choose_region(heads, unknown, tmp_path).region == "head"
        assert region.choose_region(bodies, unknown, tmp_path).region == "body"
        assert region.choose_region(heads + bodies, unknown, tmp_path).region == "body"
        single = {"image": str(save(tmp_path / "d.nii.gz", np.float32(body[..., :1]), (4, 4, 4))), "subject": "d"}
        assert region.choose_region([*heads, single], unknown, tmp_path).region == "head"
        assert region.choose_region([single], unknown, tmp_path).region == "body"
    said = [record.getMessage() for record in caplog.records]
    assert [line[:12] for line in said[:2]] == ["region: head", "region: body"]
    assert re.match("2 volumes show a head, such as .*, and 1 another part of the body, such as .*c.nii.gz", said[2])
