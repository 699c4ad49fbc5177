from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from medsynth.data.io.sources import read_header, read_picture
from medsynth.data.preprocessing.pipelines import as_grey, grey_only
from medsynth.errors import MedsynthError

GREY = np.random.default_rng(0).integers(1, 255, (6, 9)).astype(np.uint8)
UNDONE = {  # what turns an upright image into a stored one, by EXIF orientation
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda image: np.rot90(image, 1),
    7: lambda image: np.rot90(image.T, 2),
    8: lambda image: np.rot90(image, -1),
}


def shown(path) -> np.ndarray:
    return np.asarray(grey_only(read_picture(path)))


@pytest.mark.parametrize("orientation", UNDONE)
@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", "u1"), ("a.tif", "u1"), ("a.tif", "u2"), ("a.png", "u2"), ("a.jpg", "u1")]
)
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation, name, dtype):
    upright = (
        np.tile(GREY[:, :1], (1, 9)) // 2 + np.arange(9, dtype=np.uint8) if name == "a.jpg" else GREY.astype(dtype)
    )
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(UNDONE[orientation](upright))
    options = {"quality": 100} if name == "a.jpg" else {}
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **options)
    assert read_header(tmp_path / name).shape == (6, 9, 1)
    np.testing.assert_allclose(shown(tmp_path / name), upright, atol=4 if name == "a.jpg" else 0)


def tiff(path, values: np.ndarray, bits: int, sample_format: int, photometric: int, order: str = "<") -> None:
    """Write an uncompressed TIFF file of one strip; values of fewer than 8 bits are packed."""
    if bits < 8:
        unpacked = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        data = np.packbits(unpacked.reshape(len(values), -1), axis=-1).tobytes()
    else:
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    rows, columns = values.shape
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 12 * 10 + 4)]
    tags += [(277, 1), (278, rows), (279, len(data)), (339, sample_format)]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + (struct.pack(f"{order}I", value) if tag in (273, 279) else struct.pack(f"{order}HH", value, 0))
        for tag, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(tags))
    path.write_bytes(head + entries + bytes(4) + data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero_is_inverted_in_all_depths(tmp_path, bits, order):
    dtype, top = np.uint16 if bits == 16 else np.uint8, 2**bits - 1
    values = np.random.default_rng(1).integers(0, top + 1, (5, 8)).astype(dtype)
    tiff(tmp_path / "black.tif", values, bits, 1, 1, order)
    tiff(tmp_path / "white.tif", top - values, bits, 1, 0, order)
    np.testing.assert_array_equal(shown(tmp_path / "black.tif"), values * (255 // top if bits < 8 else 1))
    np.testing.assert_array_equal(shown(tmp_path / "white.tif"), shown(tmp_path / "black.tif"))
    assert read_header(tmp_path / "white.tif").bits == max(8, bits)


def test_signed_and_real_values_have_no_range_of_their_own(tmp_path):
    values = np.random.default_rng(2).integers(-1000, 900, (5, 7))
    for name, dtype, bits, kind in (
        ("s.tif", np.int16, 16, 2),
        ("f.tif", np.float32, 32, 3),
        ("l.tif", np.int32, 32, 2),
    ):
        tiff(tmp_path / name, values.astype(dtype), bits, kind, 1)
        np.testing.assert_array_equal(shown(tmp_path / name), values)
        assert read_header(tmp_path / name).bits is None
    tiff(tmp_path / "inverted.tif", ~values.astype(np.int16), 16, 2, 0)
    np.testing.assert_array_equal(shown(tmp_path / "inverted.tif"), values)
    tiff(tmp_path / "w.tif", values.astype(np.float32), 32, 3, 0)
    with pytest.raises(MedsynthError, match="real numbers with white as 0"):
        read_picture(tmp_path / "w.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_parts_are_black(tmp_path, mode):
    expected = GREY.copy()
    expected[:2] = 0
    filled = np.where(expected == 0, 255, expected).astype(np.uint8)
    alpha = np.where(expected == 0, 0, 255).astype(np.uint8)
    if mode == "I;16":
        expected = expected.astype(np.uint16) * 257
        Image.fromarray(np.where(expected == 0, np.uint16(65535), expected)).save(
            tmp_path / "a.png", transparency=65535
        )
    elif mode in ("RGBA", "LA"):
        channels = [filled] * (3 if mode == "RGBA" else 1) + [alpha]
        Image.fromarray(np.dstack(channels), mode).save(tmp_path / "a.png")
    elif mode == "P":
        image = Image.fromarray(filled, "P")
        image.putpalette(np.repeat(np.arange(256), 3).astype(np.uint8).tobytes())
        image.save(tmp_path / "a.png", transparency=255)
    else:
        clear = 255 if mode == "L" else (255, 255, 255)
        Image.fromarray(filled).convert(mode).save(tmp_path / "a.png", transparency=clear)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), expected)


def test_half_transparent_parts_are_half_as_bright(tmp_path):
    Image.fromarray(np.dstack([np.full((4, 4), 200, np.uint8), np.full((4, 4), 128, np.uint8)]), "LA").save(
        tmp_path / "a.png"
    )
    assert set(np.asarray(as_grey(read_picture(tmp_path / "a.png"))).ravel()) == {100}
