"""2D pictures, read as a viewer shows them."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tags

from medsynth.data.io.header import MOST_PIXELS, Header
from medsynth.errors import MedsynthError

BITS = dict.fromkeys(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"), 8) | {
    "I;16": 16,
    "I;16B": 16,
    "I": 16,
}
"""Of the modes of Pillow, which makes 8 bits of 1, 2 and 4."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""
TIFF = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
"""How TIFF begins: its order of bytes, and whether it is BigTIFF."""
SAMPLE_FORMAT, UNSIGNED = 339, 1  # of TIFF
MOST_TAGS, SHORT = 4096, 3
WHITE_IS_ZERO = 0  # photometric interpretation of TIFF
HIDDEN = {Tags.PhotometricInterpretation: (WHITE_IS_ZERO,), Tags.Orientation: UPRIGHT}
"""Values of TIFF tags that Pillow heeds in some kinds of files only: it is told 1 (black is zero, upright) instead."""


def read_header(path: Path) -> Header:
    """Rows, columns and bits, as `read` gives them.

    Raises:
        MedsynthError: it has several pages, or too many pixels.
    """
    picture, declared = _open(path)
    with picture:
        if (pages := getattr(picture, "n_frames", 1)) > 1:
            raise MedsynthError(f"has {pages} pages, and one is needed: save each page as a file")
        columns, rows = picture.size
        if rows * columns > MOST_PIXELS:
            raise MedsynthError(f"declares {columns} x {rows} pixels, which is too many: its header is damaged")
        orientation = declared.get(Tags.Orientation) or Image.Image.getexif(picture).get(Tags.Orientation, 1)
        shape = (columns, rows, 1) if orientation >= 5 else (rows, columns, 1)
        return Header(shape, (1.0, 1.0, 1.0), _bits(picture))


def read(path: Path) -> Image.Image:
    """Turned as its EXIF data say, transparent parts on black, and black at the lowest value.

    Raises:
        MedsynthError: real numbers are stored with white as 0.
    """
    picture, declared = _open(path)
    with picture:
        bits = _bits(picture)
        picture.load()
        orientation = declared.get(Tags.Orientation) or picture.getexif().get(Tags.Orientation)
        upright = picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture.copy()
    is_inverted = declared.get(Tags.PhotometricInterpretation) == WHITE_IS_ZERO
    return _on_black(_inverted(upright, bits) if is_inverted else upright)


def _open(path: Path) -> tuple[Image.Image, dict[int, int]]:
    """A picture, and what its TIFF file declares that is hidden from Pillow."""
    with path.open("rb") as file:
        order, found = _tiff_tags(file)
    source: Path | BinaryIO = path
    hidden = {tag: place for tag, (place, value) in found.items() if value in HIDDEN[tag]}
    if hidden:
        content = bytearray(path.read_bytes())
        for place in hidden.values():
            struct.pack_into(f"{order}H", content, place, 1)
        source = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(source), {tag: found[tag][1] for tag in hidden}


def _tiff_tags(file: BinaryIO) -> tuple[str, dict[int, tuple[int, int]]]:
    """The order of bytes of a TIFF file, and for each tag of `HIDDEN`, where its value stands, and the value."""
    order, is_big = TIFF.get(file.read(4), ("", False))
    if not order:
        return order, {}
    count, pointer, size = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    file.seek(8 if is_big else 4)
    (first,) = struct.unpack(order + pointer, file.read(struct.calcsize(pointer)))
    file.seek(first)
    (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
    start, found = file.tell(), {}
    content = file.read(min(entries, MOST_TAGS) * size)
    for place in range(0, len(content) - size + 1, size):
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        if tag in HIDDEN and kind == SHORT:
            value = place + size - struct.calcsize(pointer)
            found[tag] = start + value, struct.unpack_from(f"{order}H", content, value)[0]
    return order, found


def _inverted(picture: Image.Image, bits: int | None) -> Image.Image:
    if picture.mode in ("1", "L"):
        return ImageOps.invert(picture.convert("L"))
    values = np.asarray(picture)
    if values.dtype.kind == "f":
        raise MedsynthError("holds real numbers with white as 0 (WhiteIsZero): save it with black as 0")
    return Image.fromarray(~values if bits is None else (2**bits - 1 - values.astype(np.int32)).astype(values.dtype))


def _bits(picture: Image.Image) -> int | None:
    """That its values fill; None if they are signed, real or of more than 16 bits."""
    bits = BITS.get(picture.mode)
    if picture.format != "TIFF":
        return bits
    if set(picture.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))) != {UNSIGNED}:
        return None
    own = max(picture.tag_v2.get(Tags.BitsPerSample, (1,)))
    return bits if bits == 8 else own if own <= 16 else None


def _on_black(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        return Image.fromarray(np.where(values == picture.info["transparency"], values.dtype.type(0), values))
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")
