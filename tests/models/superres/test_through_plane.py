from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation
from scipy.spatial.transform import Rotation
from small_networks import RRDB

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.models.superres.inference import SliceUpscaler
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.through_plane import ThroughPlane, super_resolution, through
from medsynth.nn.slice_profile import to_slices
from medsynth.run.recipe import load_model, save_model

SHAPE = (44, 50, 9)  # 0.9 x 0.9 mm, slices every 5 mm: 45 mm, of 50 fine ones
TURN = Rotation.from_euler("xyz", [0.2, -0.1, 0.3]).as_matrix()
OBLIQUE = nib.affines.from_matvec(TURN * [0.9, 0.9, 5.0], [-20, -25, -15])
BOX = {"degradation": "box", "scale": 5 / 0.9}


def network(**options) -> RRDBNet:
    """One whose answer is not its base."""
    torch.manual_seed(0)
    made = RRDBNet(**RRDB | BOX | options).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


@pytest.fixture
def head() -> np.ndarray:
    """A ball in air, with a bright slice a third up and a blob at a known place."""
    places = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    volume = np.where(sum(axis**2 for axis in places) < 0.9, 40.0, -980.0)
    blob = sum(
        (axis - at) ** 2 / w for axis, at, w in zip(np.indices(SHAPE), (25.3, 20.6, 3.0), (3, 3, 0.2), strict=True)
    )
    return np.round(volume + 8000 * np.exp(-blob)).astype(np.int16)


@pytest.fixture
def finer(tmp_path, head):
    """What a network makes of a volume stored in this order of axes, beside the file."""

    def run(orientation: str = "RAS", volume: np.ndarray = head, affine=OBLIQUE, **options):
        path = tmp_path / f"Doe_{orientation}.nii.gz"
        nib.save(nib.Nifti1Image(volume, affine).as_reoriented(axcodes2ornt(orientation)), path)
        made = RRDBNet(**RRDB | BOX | options)
        definition = {"_target_": "medsynth.models.superres.network.RRDBNet"} | RRDB | BOX | options
        save_model(tmp_path / "model.pt", made, definition, Preprocessing("ct", (-1000.0, 2000.0), None, 32).to_dict())
        model, out = load_model(tmp_path / "model.pt"), tmp_path / "out"
        output = ImageFolder(out, "superres", model.digest, overwrite=True)
        super_resolution(model, output, SliceUpscaler(model.network)).run([{"image": str(path)}])
        (file,) = (out / "images").glob("*.nii.gz")
        return nib.load(file), nib.load(path)

    return run


def corners(image) -> np.ndarray:
    """Of the field of view, first and last, in mm."""
    return nib.affines.apply_affine(image.affine, np.subtract([[0.0, 0.0, 0.0], image.shape], 0.5))


def brightest(image) -> np.ndarray:
    """Centre of mass of the blob, in mm."""
    weights = np.clip(np.asarray(image.dataobj, float) - 500, 0, None)
    voxel = [(weights * axis).sum() / weights.sum() for axis in np.indices(image.shape)]
    return nib.affines.apply_affine(image.affine, voxel)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SLA", "ASR", "PIR"])
def test_thick_slices_get_as_close_as_pixels_and_a_landmark_stays_at_its_place_in_mm(finer, orientation):
    made, image = finer(orientation)
    axis = [direction in "SI" for direction in nib.aff2axcodes(image.affine)].index(True)
    assert made.shape[axis] == 50
    assert [n for i, n in enumerate(made.shape) if i != axis] == [n for i, n in enumerate(image.shape) if i != axis]
    np.testing.assert_allclose(nib.affines.voxel_sizes(made.affine), 0.9, atol=1e-3)
    np.testing.assert_allclose(corners(made), corners(image), atol=1e-3)
    np.testing.assert_allclose(brightest(made), brightest(image), atol=0.25)  # a fine voxel is 0.9 mm, a slice 5 mm


@pytest.mark.parametrize(
    ("orientation", "profile"), [("RAS", [0.1, 0.4, 1.0, 0.4, 0.1]), ("LPI", [1.0, 0.6, 0.3]), ("SLA", [0.3, 0.6, 1.0])]
)
def test_a_landmark_that_a_given_profile_blurred_gets_back_to_its_place_in_mm(finer, orientation, profile):
    place = np.array([25.3, 20.6, 18.4])  # of 44 x 50 x 50 voxels
    distance = sum((axis - at) ** 2 for axis, at in zip(np.indices((44, 50, 50)), place, strict=True))
    truth = torch.from_numpy(2500 * np.exp(-distance / 18) - 980).permute(2, 0, 1)
    slices = to_slices(truth.flatten(1), 9, profile, 1.0).reshape(9, 44, 50).permute(1, 2, 0).numpy()
    made, _ = finer(orientation, slices, degradation=profile)
    expected = nib.affines.apply_affine(OBLIQUE, [*place[:2], (place[2] + 0.5) * 9 / 50 - 0.5])
    np.testing.assert_allclose(brightest(made), expected, atol=0.7)  # a fine voxel is 0.9 mm
    upright = np.array(made.as_reoriented(io_orientation(made.affine)).dataobj)
    found = to_slices(torch.from_numpy(upright).permute(2, 0, 1).flatten(1), 9, profile, 1.0)
    np.testing.assert_allclose(found.reshape(9, 44, 50).permute(1, 2, 0), slices, atol=5)


@pytest.mark.parametrize(("sizes", "axis"), [((5.0, 0.9, 0.9), 0), ((0.9, 5.0, 0.9), 1)])
def test_the_slice_axis_is_the_coarsest_whatever_plane_the_model_learned_from(finer, sizes, axis):
    shape = [9 if mm == 5 else 40 for mm in sizes]
    volume = np.full(shape, -980, np.int16)
    volume[tuple(slice(n // 4, -(n // 4)) for n in shape)] = 40
    made, _ = finer(volume=volume, affine=nib.affines.from_matvec(np.diag(sizes)))
    assert made.shape == tuple(50 if i == axis else 40 for i in range(3))


@pytest.mark.parametrize(
    "options", [{}, {"degradation": "gaussian"}, {"degradation": [1.0, 2.0, 0.5]}, {"fill": 0.6}, {"fill": 1.3}]
)
def test_means_over_each_slice_of_what_is_made_are_what_was_measured(options):
    made = network(**options)
    truth = (torch.rand(50, 143, generator=torch.Generator().manual_seed(0)) * 1.5 - 1.2).clamp_min(-1)
    slices = to_slices(truth, 9, made.degradation, made.fill).reshape(9, 13, 11)
    fine = through(slices, 50, SliceUpscaler(made))
    assert fine.shape == (50, 13, 11)
    assert fine.min() >= slices.min()
    assert (fine - through(slices, 50, SliceUpscaler(RRDBNet(**RRDB | BOX | options).eval()))).abs().max() > 0.01
    found = to_slices(fine.flatten(1), 9, made.degradation, made.fill).reshape(slices.shape)
    torch.testing.assert_close(found, slices, atol=0.02, rtol=0)  # of noise, the worst


def test_the_two_stacks_of_cuts_are_averaged():
    made, slices = network(consistent=False), torch.rand(6, 8, 10, generator=torch.Generator().manual_seed(1)) * 2 - 1
    upscaler = SliceUpscaler(made.at(5.0))
    by_columns = torch.stack([upscaler(slices[:, :, i][None, None])[0] for i in range(10)], dim=2)
    by_rows = torch.stack([upscaler(slices[:, i][None, None])[0] for i in range(8)], dim=1)
    expected = ((by_columns + by_rows) / 2).clamp_min(float(slices.min()))
    torch.testing.assert_close(through(slices, 30, SliceUpscaler(made)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("slices", "columns"), [(9, 21), (14, 40)])
def test_tiles_leave_no_seams_at_odd_sizes(slices, columns):
    made = network()
    coarse = torch.rand(2, 1, slices, columns, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = made(coarse)[:, 0].detach()
    assert whole.shape == (2, round(slices * 5 / 0.9), columns)
    assert (whole - made.base(coarse)[:, 0]).std() > 0.01
    torch.testing.assert_close(SliceUpscaler(made, tile_size=8)(coarse), whole, atol=1e-4, rtol=0)


def test_scans_that_are_alike_on_all_sides_are_refused_with_the_reason(finer):
    with pytest.raises(
        MedsynthError,
        match="none of the 1 inputs can be used.*is not a scan of thick slices: voxels are "
        "0.9 x 0.9 x 1 mm, and what a model through the plane adds lies between slices",
    ):
        finer(affine=np.diag([0.9, 0.9, 1.0, 1.0]))


def test_a_scale_is_refused():
    upscaler = SliceUpscaler(network())
    with pytest.raises(
        MedsynthError, match="scale is 2, and this model goes from slices to the spacing of their pixels"
    ):
        ThroughPlane(None, None, upscaler, 2)
