from __future__ import annotations

import numpy as np
import pytest

from medsynth.data.preprocessing.hounsfield import is_offset_ct, mended
from medsynth.errors import MedsynthError


def body(noise: float = 5.0, seed: int = 0) -> np.ndarray:
    """Half air, a third soft tissue, some fat, lung and bone, in Hounsfield units."""
    rng = np.random.default_rng(seed)
    parts = {-1000: 5000, -820: 1000, -100: 1000, 45: 2500, 900: 500}
    values = np.concatenate([np.full(count, hu) for hu, count in parts.items()]) + rng.normal(0, noise, 10000)
    return np.round(values).astype(np.float32)


@pytest.mark.parametrize("offset", [1000, 1024, 8192, 32768])
def test_an_offset_is_subtracted(offset):
    values, note = mended(body() + offset)
    np.testing.assert_array_equal(values, body())
    assert note == f"{offset:,} subtracted, so that air has -1000 HU and water 0"


def test_padding_does_not_hide_which_offset_it_is():
    stored = body() + 1024
    stored[:2500] = 0
    assert mended(stored)[1].startswith("1,024 subtracted")


def test_air_between_both_offsets_is_refused():
    with pytest.raises(MedsynthError, match="offset of 1000 or 1024 .air has 12"):
        mended(body(noise=0) + 1012)


def test_values_without_their_sign_get_it_back():
    stored = np.int16(body()).view(np.uint16).astype(np.float32)
    values, note = mended(stored)
    np.testing.assert_array_equal(values, body())
    assert note == "65,536 subtracted from negative values that had lost their sign"
    stored[0] = 30000
    with pytest.raises(MedsynthError, match="lost their sign, and were then mixed"):
        mended(stored)


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_becomes_air_without_a_word(padding):
    stored = body()
    stored[:100] = padding
    values, note = mended(stored)
    assert note is None
    assert (values[:100] == -1000).all()
    np.testing.assert_array_equal(values[100:], body()[100:])


def test_hounsfield_units_stay_as_they_are():
    """Metal, a template whose background is 0, and soft tissue alone among them."""
    metal, template, tissue = body(), body(), body()[6000:9500]
    metal[-5:] = 8000
    template[:5000] = 0
    for values in (body(), metal, template, tissue, template[template > -150]):
        found, note = mended(values)
        assert found is values
        assert note is None


@pytest.mark.parametrize("scaled", [lambda hu: (hu + 100) / 400 * 255, lambda hu: (hu + 1000) / 2000, np.tanh])
def test_windowed_values_are_refused(scaled):
    values = np.clip(scaled(body()), -1, 255)
    values = values.clip(0, 1 if values.max() < 2 else 255)
    with pytest.raises(MedsynthError, match="as after a window, and CT needs Hounsfield units.*--modality mri"):
        mended(values)


def test_only_large_offsets_and_lost_signs_are_told_without_a_name():
    mri = np.abs(np.random.default_rng(0).normal(0, 30, 10000))
    mri[4000:] += np.random.default_rng(1).gamma(4, 250, 6000)
    spikes = mri * 20
    spikes[:3] = 65535
    for values in (mri, mri * 10, spikes, mri * 65535 / mri.max(), body(), body() + 1024):
        assert not is_offset_ct(values)
    for values in (body() + 8192, body() + 32768, np.int16(body()).view(np.uint16).astype(np.float32)):
        assert is_offset_ct(values)
