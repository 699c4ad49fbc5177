from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.data.datalist import pairs
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.phantom.phantom import write_dataset
from medsynth.data.preprocessing import pipelines, transforms
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.preparation import PREPARED
from medsynth.models.translation.pair_slices import PairDataset

DIGESTS = {
    2: {
        "mri": {"shape": (27, 32, 32), "numbers": [-0.59971, 0.54547, -0.17322, 7.0, 7.0, 6.0, 12.0]},
        "even mri": {"shape": (25, 40, 40), "numbers": [-0.61417, 0.59726, 0.1578, 6.0, 6.0, 6.0, 12.0]},
        "ct": {"shape": (24, 48, 48), "numbers": [-0.5975, 0.66295, 0.14429, 5.0, 5.0, 5.0, 12.0]},
        "picture": {"shape": (1, 24, 24), "numbers": [-0.30083, 0.54082, -0.02038, 1.0, 1.0, 1.0, 0.0]},
        "pair": {"shape": (54, 32, 32), "numbers": [-0.57641, 0.6497, -0.1279, 7.0, 7.0, 6.0, 12.0]},
    },
}
"""By number of the preparation, `digest` of the prepared phantom. Numbers may differ by 1e-4 between machines."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """The phantom's MRI and CT of one subject, on two grids, and a slice of the MRI as a picture."""
    folder = tmp_path_factory.mktemp("phantom")
    for modality, spacing_mm in (("T1w", 6.0), ("CT", 5.0)):
        write_dataset(folder / modality, 2, spacing_mm, modalities=[modality])
    found = {modality: str(next((folder / modality).rglob(f"sub-001_{modality}.nii.gz"))) for modality in ("T1w", "CT")}
    volume = nib.load(found["T1w"]).get_fdata()
    middle = volume[volume.shape[0] // 2]
    Image.fromarray(np.uint8(middle / middle.max() * 255)).save(folder / "slice.png")
    return found | {"picture": str(folder / "slice.png")}


@pytest.fixture
def prepared(files: dict[str, str], tmp_path: Path) -> Callable[[str], dict[str, object]]:
    """Prepares the phantom in one way, and returns the digest."""

    def prepare(kind: str) -> dict[str, object]:
        mri = Preprocessing("mri", None, (7.0, 7.0), 32, neighbours=1)
        ct = Preprocessing("ct", "brain", None, 48, plane="coronal", positions=(0.2, 0.8))
        if kind == "pair":
            entry = {"source": files["T1w"], "target": files["CT"], "subject": "a"}
            return digest(PairDataset([entry], mri, ct, cache_dir=tmp_path))
        path, preprocessing = {
            "mri": (files["T1w"], mri),
            "even mri": (files["T1w"], Preprocessing("mri", None, None, 40, bias_correction=True)),
            "ct": (files["CT"], ct),
            "picture": (files["picture"], Preprocessing("image", None, None, 24)),
        }[kind]
        return digest(SliceDataset([{"image": path, "subject": "a"}], preprocessing, cache_dir=tmp_path))

    return prepare


def digest(dataset: SliceDataset | PairDataset) -> dict[str, object]:
    """Shape, mean and spread of the slices, a sum in which each pixel has a weight of its own, and the facts' sums."""
    slices = np.float64(dataset.stored_slices[:])
    weights = np.cos(2.4 * np.arange(slices.size)).reshape(slices.shape)
    weighted = float((weights * slices).sum() / np.sqrt(slices.size))
    facts = [*dataset.spacing_mm, dataset.slice_mm, float(np.nansum(dataset.positions))]
    return {"shape": slices.shape, "numbers": [slices.mean(), slices.std(), weighted, *facts]}


def is_as_before(kind: str, found: dict[str, object]) -> bool:
    """Whether a digest is that of the present number."""
    before = DIGESTS[PREPARED][kind]
    return found["shape"] == before["shape"] and np.allclose(found["numbers"], before["numbers"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["mri", "even mri", "ct", "picture", "pair"])
def test_the_phantom_is_prepared_as_the_number_says(prepared, kind):
    found = prepared(kind)
    assert is_as_before(kind, found), f"pixels changed: raise PREPARED, and write down {kind!r}: {found}"


def shifted(read_pair: Callable) -> Callable:
    """Reads targets one voxel off."""

    def read(entry: dict) -> tuple:
        source, target = read_pair(entry)
        return source, target.roll(1, dims=1)

    return read


def brighter(scale: Callable) -> Callable:
    """Scales pictures to half a grey value more."""

    def call(self: object, data: dict) -> dict:
        data = scale(self, data)
        return data | {"image": data["image"] + 1 / 255}

    return call


@pytest.mark.parametrize(
    ("kind", "owner", "name", "edit"),
    [
        ("mri", transforms, "MRI_PERCENTILES", lambda percentiles: (0.5, 99.4)),
        ("ct", pipelines, "CT_WINDOWS_HU", lambda windows: windows | {"brain": (0.0, 81.0)}),
        ("picture", transforms.ScaleToUnit, "__call__", brighter),
        ("pair", pairs, "read_pair", shifted),
    ],
)
def test_an_edit_that_changes_pixels_and_not_the_number_is_noticed(prepared, monkeypatch, kind, owner, name, edit):
    monkeypatch.setattr(owner, name, edit(getattr(owner, name)))
    assert not is_as_before(kind, prepared(kind))
