"""Arrays to files: NIfTI and PNG."""

from __future__ import annotations

import gzip
import io
import re
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medsynth.errors import MedsynthError

SCANNER, ALIGNED = 1, 2  # NIfTI codes of a scanner's coordinates, and of others that are anatomical


def nifti(array: np.ndarray, affine: np.ndarray, origin: str = "synthetic", code: int = ALIGNED) -> bytes:
    """A compressed NIfTI file in mm; equal arguments give equal bytes.

    Args:
        origin: how it was made, for the description, which also names this software.
        code: NIfTI's, of the coordinates that the affine (4, 4) leads to.
    """
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, 0)  # it has no room for shears
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"medsynth {version('medsynth')}, {origin}"
    return gzip.compress(image.to_bytes(), mtime=0)


def png(array: np.ndarray) -> bytes:
    """A PNG file of one slice (rows, columns, 1) of 8 or 16 bits, neither turned nor mirrored.

    Raises:
        MedsynthError: it is anything else.
    """
    if array.shape[2:] != (1,) or array.dtype not in (np.uint8, np.uint16):
        found = f"{' x '.join(map(str, array.shape))} of {array.dtype}"
        raise MedsynthError(f"format png holds one slice of uint8 or uint16, and this is {found}: leave format out")
    text, buffer = PngInfo(), io.BytesIO()
    text.add_text("Software", f"medsynth {version('medsynth')}, synthetic")
    Image.fromarray(array[..., 0]).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def form_code(path: str | Path) -> int:
    """NIfTI code of an input's coordinates: the one that it has, or a scanner's where its format has none."""
    try:
        header = nib.load(path).header
    except (OSError, nib.filebasedimages.ImageFileError):
        return SCANNER
    return next((int(header[key]) for key in ("sform_code", "qform_code") if key in header and header[key]), ALIGNED)


def safe(name: str) -> str:
    """A class name as part of a file name, in which `_` divides the parts."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-.") or "class"
