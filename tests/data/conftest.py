from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt


@pytest.fixture
def head() -> Callable[..., np.ndarray]:
    """An ellipsoid of 50 to 150 in air of 0, right-anterior-superior, with a bright spot at its right front."""

    def build(shape: tuple[int, int, int] = (24, 30, 26), seed: int = 0) -> np.ndarray:
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        inside = sum(axis**2 for axis in axes) < 0.6
        volume = np.where(inside, np.random.default_rng(seed).integers(50, 150, shape), 0)
        right, front, middle = shape[0] // 2 + 4, shape[1] // 2 + 6, shape[2] // 2
        volume[right : right + 3, front : front + 3, middle - 2 : middle + 3] = 400
        return volume.astype(np.int16)

    return build


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write a right-anterior-superior volume with its axes stored as `orientation` says."""

    def write(path: Path, volume: np.ndarray, mm: tuple[float, ...] = (2, 2, 2), orientation: str = "RAS") -> Path:
        image = nib.Nifti1Image(volume, np.diag([*mm, 1.0]))
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image.as_reoriented(axcodes2ornt(orientation, (("L", "R"), ("P", "A"), ("I", "S")))), path)
        return path

    return write


@pytest.fixture
def study(tmp_path: Path, head: Callable, save: Callable) -> list[dict]:
    """Entries of twelve heads in turns of class NC and AD."""
    paths = [save(tmp_path / "study" / f"p{i:02d}.nii.gz", head(seed=i)) for i in range(12)]
    return [{"image": str(p), "subject": p.name[:3], "label": ("NC", "AD")[i % 2]} for i, p in enumerate(paths)]
