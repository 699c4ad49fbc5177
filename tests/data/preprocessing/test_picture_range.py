from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.picture_range import choose_range, used_range
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError

PICTURES = Preprocessing("image", None, None, 8)


@pytest.fixture
def drawn(tmp_path):
    """Write pictures with these highest values; returns their sources."""

    def draw(dtype: type, *highest: int) -> list[Source]:
        paths = []
        for value in highest:
            paths.append(tmp_path / f"{dtype.__name__}_{value}.png")
            values = np.zeros((8, 8), dtype)
            values[2, 3] = value
            Image.fromarray(values).save(paths[-1])
        return [Source(str(path)) for path in paths]

    return draw


@pytest.mark.parametrize(
    ("highest", "window"),
    [((900, 4080, 0), (0, 4095)), ((1023,), (0, 1023)), ((200,), (0, 255)), ((40000, 12), (0, 65535))],
)
def test_pictures_of_16_bits_use_the_bits_that_the_set_needs(drawn, tmp_path, caplog, highest, window):
    caplog.set_level(logging.INFO)
    found = choose_range(drawn(np.uint16, *highest), PICTURES, tmp_path / "cache")
    assert found.window == window
    if window[1] == 65535:
        assert not caplog.text
    else:
        assert f"pictures hold values up to {max(highest)}: black is 0 and white {window[1]}" in caplog.text


def test_pictures_of_16_bits_beside_others_of_8_keep_their_own_range_where_they_fill_it(drawn, tmp_path):
    assert choose_range([*drawn(np.uint16, 40000), *drawn(np.uint8, 9)], PICTURES, tmp_path / "cache") == PICTURES


def test_slices_are_taken_in_the_range_that_the_set_uses(drawn, tmp_path):
    entries = [{"image": source.path, "subject": source.path} for source in drawn(np.uint16, 4095, 2048)]
    dataset = SliceDataset(entries, PICTURES, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(dataset.images[:][:, 2, 3], [1, 2 * 2048 / 4095 - 1], atol=1e-6)
    assert dataset.preprocessing.window == (0, 4095)


def test_8_bits_volumes_and_a_given_window_are_left_alone(drawn, tmp_path):
    dark = drawn(np.uint8, 30)
    assert choose_range(dark, PICTURES, tmp_path / "cache") == PICTURES
    for given in (Preprocessing("image", (0, 9), None, 8), Preprocessing("mri", None, None, 8)):
        assert choose_range(drawn(np.uint16, 900), given, tmp_path / "cache") is given


def test_12_bits_beside_8_are_refused_with_the_cure(drawn, tmp_path):
    mixed = [*drawn(np.uint16, 4000), *drawn(np.uint8, 255)]
    with pytest.raises(MedsynthError, match=r"hold values up to 4,000 only, and 1 are of 8 bits: .* --window"):
        choose_range(mixed, PICTURES, tmp_path / "cache")


def test_unreadable_pictures_are_skipped(drawn, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    sources = [*drawn(np.uint16, 4000), Source(str(tmp_path / "bad.png"))]
    assert choose_range(sources, PICTURES, tmp_path / "cache").window == (0, 4095)


@pytest.mark.parametrize(
    ("highest", "bits", "range_"),
    [(4095, 16, 4095), (4096, 16, 8191), (32768, 16, None), (9, 8, None), (1000, 12, 1023)],
)
def test_the_used_range_is_that_of_whole_bits(highest, bits, range_):
    assert used_range(highest, bits) == range_
