from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt

from medsynth.data.io.sources import read_header
from medsynth.data.preprocessing.foreground import axis_of
from medsynth.data.preprocessing.pipelines import PLANES
from medsynth.errors import MedsynthError
from medsynth.models.superres.degradation import kind_of
from medsynth.models.superres.direction import across, direction_of, load_scans, thick_plane


@pytest.fixture
def scan(tmp_path):
    """An entry of a scan with voxels of this size, along right, anterior and superior."""

    def save(*sizes: float, turn: str = "RAS") -> dict[str, str]:
        path = tmp_path / f"{'_'.join(map(str, sizes))}_{turn}.nii.gz"
        volume = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
        nib.save(nib.Nifti1Image(volume, np.diag([*sizes, 1.0])).as_reoriented(axcodes2ornt(turn)), path)
        return {"image": str(path), "subject": path.name}

    return save


def found(*entries, **options):
    settings = {
        "direction": "through_plane", "modality": "mri", "plane": "axial", "spacing_mm": None, "scale": 2,
        "neighbours": 1, "thickness": None, "gap": 0.0,
    }  # fmt: skip
    return direction_of(entries=entries, **settings | options)


@pytest.mark.parametrize("turn", ["RAS", "SLA", "PIR"])
@pytest.mark.parametrize(
    ("sizes", "plane"), [((1, 1, 5), "axial"), ((1, 5, 1), "coronal"), ((5, 1, 1), "sagittal"), ((1, 1, 1.4), None)]
)
def test_the_plane_of_thick_slices_is_across_the_coarsest_axis_however_it_is_stored(scan, sizes, plane, turn):
    assert thick_plane(read_header(scan(*sizes, turn=turn)["image"])) == plane


def test_in_plane_is_what_is_given(scan):
    one = found(scan(1, 1, 5), direction="in_plane", plane="coronal")
    assert (one.plane, one.scale, one.neighbours, one.fill) == ("coronal", 2, 1, 1.0)


@pytest.mark.parametrize(
    ("options", "scale", "fill"),
    [
        ({}, 5 / 0.9, 1.0),
        ({"gap": 1.0}, 5 / 0.9, 0.8),
        ({"gap": -1.0}, 5 / 0.9, 1.2),
        ({"thickness": 3.0, "gap": 1.0}, 4 / 0.9, 0.75),
        ({"spacing_mm": [1.0, 1.0]}, 5.0, 1.0),
    ],
)
def test_thickness_and_gap_make_the_distance_between_slices(scan, options, scale, fill):
    one = found(scan(0.9, 0.9, 5), **options)
    assert (one.plane, one.neighbours) == ("axial", 0)
    assert (one.scale, one.fill) == pytest.approx((scale, fill), rel=1e-5)


def test_a_thickness_lets_a_model_learn_from_scans_that_are_alike_on_all_sides(scan):
    one = found(scan(1, 1, 1), thickness=6.0, plane="coronal")
    assert (one.plane, one.scale) == ("coronal", 6.0)


@pytest.mark.parametrize(
    ("sizes", "options", "told"),
    [
        ([(1, 1, 1)], {}, "voxels are 1 x 1 x 1 mm, so that there is nothing to gain between slices: list scans with"),
        ([(1, 1, 5), (1, 5, 1)], {}, "lie in several planes (1 axial, 1 coronal): list those of one plane"),
        ([(1, 1, 5)], {"gap": 5.0}, "gap is 5 mm, and slices lie 5 mm apart"),
        ([(1, 1, 5)], {"thickness": 1.2}, "slices would lie 1.2 mm apart, and pixels are 1 mm: 1.5 times that or more"),
        ([(1, 1, 5)], {"thickness": -1}, "thickness is -1: give null, or mm above 0"),
        ([(1, 1, 5)], {"direction": "up"}, "direction is 'up': choose one of in_plane, through_plane"),
        ([(1, 1, 5)], {"modality": "image"}, "pictures have one plane"),
    ],
)
def test_what_cannot_be_is_told(scan, sizes, options, told):
    with pytest.raises(MedsynthError) as raised:
        found(*(scan(*size) for size in sizes), **options)
    assert told in str(raised.value)


def test_each_direction_has_its_kinds_of_degradation():
    assert [kind_of(None, "mri", name) for name in ("in_plane", "through_plane")] == ["kspace", "box"]
    assert kind_of("gaussian", "ct", "through_plane") == "gaussian"
    assert kind_of([1, 2, 1], "ct", "through_plane") == [1, 2, 1]
    with pytest.raises(
        MedsynthError, match="'area': choose one of box, gaussian, or give weights such as .0.1, .*plane"
    ):
        kind_of("area", "ct", "through_plane")
    with pytest.raises(MedsynthError, match=r"is \[1, 2, 1\]: choose one of kspace, area .direction in_plane"):
        kind_of([1, 2, 1], "ct")


def test_a_scan_alone_is_trained_and_validated_on(scan):
    path = scan(1, 1, 5)["image"]
    data = load_scans(path)
    assert [[entry["image"] for entry in data.splits[name]] for name in ("training", "validation", "test")] == [
        [path], [path], []
    ]  # fmt: skip
    assert data.digest == load_scans(path).digest != ""


def test_a_folder_of_several_scans_is_no_datalist(scan):
    folder = Path(scan(1, 1, 5)["image"]).parent
    scan(1, 5, 1)
    with pytest.raises(MedsynthError, match="holds 2 images: make a datalist of them"):
        load_scans(str(folder))


@pytest.mark.parametrize(
    ("plane", "cut", "columns"),
    [("axial", "coronal", False), ("coronal", "axial", False), ("sagittal", "coronal", True)],
)
def test_cuts_across_a_plane_have_its_slices_as_rows_or_columns(plane, cut, columns):
    assert across(plane) == (cut, columns)
    assert axis_of(PLANES[cut][int(columns)])[0] == axis_of(PLANES[plane][2])[0]
