from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.orientations import axcodes2ornt
from PIL import Image
from scipy.spatial.transform import Rotation
from small_networks import RRDB

from medsynth.data.io.dicom_export import export
from medsynth.data.io.sources import Source, find_images
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.models.superres.inference import SliceUpscaler, SuperResolution, reach, read_upright
from medsynth.models.superres.network import RRDBNet
from medsynth.run.recipe import LoadedModel, load_model, save_model

SHAPE = (22, 26, 18)
OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [0.3, -0.2, 0.4]).as_matrix() * [3, 2.5, 4], [-30, -35, -20]
)
ORIENTATIONS = [
    "".join(sides) for axes in itertools.permutations(("LR", "PA", "IS")) for sides in itertools.product(*axes)
]
BOUNDS = (-1000.0, 2000.0)


def untrained(**options) -> RRDBNet:
    return RRDBNet(**RRDB | options).eval()


def restless(**options) -> RRDBNet:
    """A network whose answer is not its base."""
    torch.manual_seed(0)
    network = untrained(**options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def head() -> np.ndarray:
    """A ball of some 40 HU in a shell of bone, in air, with a landmark of metal that is brighter than the window."""
    places = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    radius = sum(axis**2 for axis in places)
    volume = np.select([radius < 0.7, radius < 0.95], [40.0, 900.0], -980.0)
    blob = sum((axis - at) ** 2 for axis, at in zip(np.indices(SHAPE), (12.3, 9.6, 9.0), strict=True))
    return np.round(volume + 8000 * np.exp(-blob / 3)).astype(np.int16)


@pytest.fixture
def saved(tmp_path, head):
    """A volume's file, its axes stored in this order."""

    def save(orientation: str = "RAS", volume: np.ndarray = head) -> Path:
        image = nib.Nifti1Image(volume, OBLIQUE).as_reoriented(axcodes2ornt(orientation))
        nib.save(image, tmp_path / f"Doe_Jane_{orientation}.nii.gz")
        return tmp_path / f"Doe_Jane_{orientation}.nii.gz"

    return save


@pytest.fixture
def finer(tmp_path):
    """What a network makes of a file, and the folder that it is in."""

    def run(path: Path, network: RRDBNet | None = None, scale=None, dicom=False, plane="axial", modality="ct", **how):
        window = None if modality == "image" else BOUNDS
        preprocessing = Preprocessing(modality, window, None, 32, plane=plane)
        network = network or untrained()
        definition = {"_target_": "medsynth.models.superres.network.RRDBNet"} | RRDB
        save_model(tmp_path / "model.pt", untrained(), definition, preprocessing.to_dict())
        model, out = load_model(tmp_path / "model.pt"), tmp_path / "out"
        output = ImageFolder(out, "superres", model.digest, overwrite=True)
        SuperResolution(model, output, SliceUpscaler(network, **how), scale, dicom).run([{"image": str(path)}])
        (file,) = (out / "images").glob("*.nii.gz")
        return nib.load(file), out

    return run


def corners(image) -> np.ndarray:
    """Of the field of view, first and last, in mm."""
    ends = [[0.0, 0.0, 0.0], image.shape]
    return nib.affines.apply_affine(image.affine, np.subtract(ends, 0.5))


def brightest(image) -> np.ndarray:
    """Centre of mass of what is brighter than bone, in mm."""
    weights = np.clip(np.asarray(image.dataobj, float) - 2500, 0, None)
    voxel = [(weights * axis).sum() / weights.sum() for axis in np.indices(image.shape)]
    return nib.affines.apply_affine(image.affine, voxel)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_any_orientation_keeps_its_axes_its_field_of_view_and_the_place_of_a_landmark(saved, finer, orientation):
    path = saved(orientation)
    (made, _), image = finer(path), nib.load(path)
    doubled = [1 if axis in "IS" else 2 for axis in nib.aff2axcodes(image.affine)]
    assert made.shape == tuple(np.multiply(image.shape, doubled))
    assert nib.aff2axcodes(made.affine) == nib.aff2axcodes(image.affine)
    np.testing.assert_allclose(corners(made), corners(image), atol=1e-3)
    np.testing.assert_allclose(brightest(made), brightest(image), atol=0.3)  # a fine voxel is 1.25 mm at least


@pytest.mark.parametrize(("plane", "fixed"), [("coronal", 1), ("sagittal", 0)])
def test_the_plane_of_the_training_slices_gets_finer(saved, finer, plane, fixed):
    made, _ = finer(saved(), plane=plane)
    assert [new // old for new, old in zip(made.shape, SHAPE, strict=True)] == [
        1 if a == fixed else 2 for a in range(3)
    ]
    np.testing.assert_allclose(brightest(made), brightest(nib.load(saved())), atol=0.3)


def test_a_ramp_in_mm_stays_that_ramp(saved, finer):
    def mm(shape, affine):
        places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
        return places @ [1.0, 2.0, 3.0]

    ramp = mm(SHAPE, OBLIQUE).astype(np.float32)
    ramp[0, 0, 0] -= 500  # something that stands out from its background
    made, _ = finer(saved("SLP", ramp), untrained(degradation="area"), modality="mri")
    inside = tuple(slice(side // 4, -(side // 4)) for side in made.shape)
    difference = np.asarray(made.dataobj) - mm(made.shape, made.affine)
    assert np.abs(difference[inside]).max() < 0.05  # half a voxel would be a mm or more


@pytest.mark.parametrize(("rows", "columns"), [(37, 64), (50, 51), (9, 100)])
@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_leave_no_seams_whatever_the_size(rows, columns, scale):
    network = restless(scale=scale)
    slices = torch.rand(2, 1, rows, columns, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = network(slices)[:, 0].detach()
    assert (whole - network.base(slices)[:, 0]).std() > 0.01  # there is something to tell
    torch.testing.assert_close(SliceUpscaler(network, tile_size=8)(slices), whole, atol=1e-4, rtol=0)


def test_a_network_sees_no_farther_than_its_reach():
    network, distance = restless(), reach(restless())
    side = 2 * distance + 21
    slices = torch.zeros(1, 1, side, side, requires_grad=True)
    network.detail(slices)[0, 0, side, side].backward()
    seen = slices.grad[0, 0].abs().sum(0).nonzero().ravel()
    assert distance - 2 <= side // 2 - seen.min() <= distance


def test_less_overlap_than_the_network_sees_is_said_to_show(caplog):
    SliceUpscaler(untrained(), overlap=2)
    assert "overlap 2 is less than the network sees" in caplog.text


def test_an_ensemble_is_the_mean_over_mirror_images():
    network = restless()
    slices = torch.rand(1, 1, 12, 15) * 2 - 1
    flips = [(), (2,), (3,), (2, 3)]
    expected = torch.stack([network(slices.flip(dims)).flip(dims) for dims in flips]).mean(0).detach()[:, 0]
    torch.testing.assert_close(SliceUpscaler(network, ensemble=True)(slices), expected, atol=1e-5, rtol=0)


def test_mixed_precision_rounds_the_detail_alone():
    network = restless()
    slices = torch.rand(1, 1, 24, 16) * 2 - 1
    exact, rounded = SliceUpscaler(network)(slices), SliceUpscaler(network, amp=True)(slices)
    detail = network.detail(slices).detach().abs().max()
    torch.testing.assert_close(rounded, exact, atol=0.03 * detail.item(), rtol=0)


def test_what_lies_beyond_the_window_is_kept():
    network = restless()
    slices = torch.rand(1, 1, 16, 16) * 2 - 1
    slices[0, 0, 8, 8] = 5.0
    made = SliceUpscaler(network)(slices)
    detail = network.detail(slices.clamp(-1, 1)).detach()
    torch.testing.assert_close(made, network.assemble(slices, detail)[:, 0], atol=1e-5, rtol=0)
    assert made.max() > 4


def test_ct_comes_back_in_hounsfield_units_without_anything_below_air_or_cut_above(saved, finer, head):
    made, out = finer(saved())
    values = np.asarray(made.dataobj)
    assert made.get_data_dtype() == np.int16
    assert values.min() == head.min()
    assert values.max() > 6000  # metal, far above the window
    means = values.reshape(22, 2, 26, 2, 18).mean((1, 3))
    assert np.median(np.abs(means - head)) < 20  # the metal rings
    (sidecar,) = (json.loads(path.read_text()) for path in (out / "images").glob("*.json"))
    assert sidecar["Units"] == "HU"
    assert (sidecar["Scale"], sidecar["Synthetic"], sidecar["Model"]) == (2, True, "superres")
    assert (out / "grid.png").is_file()


def test_a_ct_keeps_its_own_background(saved, finer, head):
    made, _ = finer(saved(volume=np.where(head == -980, 0, head).astype(np.int16)))
    assert 0 <= np.asarray(made.dataobj)[:3, :3].max() < 10  # the metal rings


def test_nothing_of_the_input_s_name_is_in_any_output(saved, finer):
    _, out = finer(saved())
    for path in out.rglob("*"):
        assert "Doe" not in path.name
        assert path.is_dir() or b"Doe" not in path.read_bytes()


def test_neighbours_come_along_and_the_middle_slice_is_corrected(saved):
    upright = read_upright(Source(str(saved())), Preprocessing("ct", BOUNDS, None, 32, neighbours=1))
    assert upright.values.shape == (18, 26, 22)
    stack = torch.stack([torch.full((6, 8), value) for value in (-1.0, 0.25, 1.0)])[None]
    made = SliceUpscaler(untrained(neighbours=1))(stack)
    torch.testing.assert_close(made, torch.full((1, 12, 16), 0.25))


def test_a_picture_comes_back_in_its_own_grey_values(finer, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 31), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    made, _ = finer(tmp_path / "picture.png", untrained(degradation="area"), modality="image")
    assert (made.shape, made.get_data_dtype()) == ((40, 62, 1), np.uint8)
    means = np.asarray(made.dataobj, float).reshape(20, 2, 31, 2).mean((1, 3))
    assert np.median(np.abs(means - picture)) < 1


@pytest.fixture
def finer_png(tmp_path):
    """The folder in which pictures became finer, as PNG files."""

    def run(*paths: Path) -> Path:
        preprocessing = Preprocessing("image", None, None, 32).to_dict()
        model = LoadedModel(untrained(degradation="area"), preprocessing, [], {}, "", {})
        output = ImageFolder(tmp_path / "out", "superres", "", overwrite=True, format="png")
        SuperResolution(model, output, SliceUpscaler(model.network)).run([{"image": str(path)} for path in paths])
        return output.folder

    return run


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_finer_png_keeps_the_name_and_the_bits_of_its_picture(finer_png, tmp_path, kind):
    most = np.iinfo(kind).max
    picture = np.random.default_rng(0).integers(0, most, (20, 31), kind, endpoint=True)
    Image.fromarray(picture).save(tmp_path / "ct1001.png")
    out = finer_png(tmp_path / "ct1001.png")
    assert {path.name for path in (out / "images").iterdir()} == {"ct1001.png", "ct1001.json"}
    made = np.asarray(Image.open(out / "images/ct1001.png"))
    assert (made.shape, made.dtype) == ((40, 62), kind)
    assert np.median(np.abs(made.reshape(20, 2, 31, 2).mean((1, 3)) - picture)) < most / 255
    assert "ct1001" not in (out / "images/ct1001.json").read_text()
    (out / "images").rename(tmp_path / "kept")
    with pytest.raises(MedsynthError, match="by super-resolution already .x2.: "):
        finer_png(tmp_path / "kept/ct1001.png")


def test_pictures_of_one_name_are_refused_before_any_is_made_finer(finer_png, tmp_path):
    with pytest.raises(MedsynthError, match=r"would both become a.png"):
        finer_png(tmp_path / "1/a.png", tmp_path / "2/a.png")
    assert not (tmp_path / "out").exists()


def test_a_dicom_series_comes_back_as_nifti_and_as_dicom(head, finer, tmp_path):
    export(head, OBLIQUE, tmp_path / "series", "ct", "test")
    (first,) = find_images(tmp_path / "series")
    made, out = finer(first, dicom=True)
    assert made.shape == (44, 52, 18)
    (series,) = (out / "dicom").iterdir()
    again = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    assert again.GetSize() == made.shape
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again).T, np.asarray(made.dataobj))


def test_a_second_time_is_refused_with_the_reason(saved, finer, tmp_path):
    _, out = finer(saved())
    (out / "images").rename(tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.nii.gz")
    with pytest.raises(MedsynthError, match="by super-resolution already .x2.: .* give the scan that it was made from"):
        finer(file)


@pytest.mark.parametrize(
    ("scale", "advice"), [(4, "train a model with --scale 4"), (8, "no model makes that, and one applied twice")]
)
def test_another_scale_is_refused_with_the_reason(saved, finer, scale, advice):
    with pytest.raises(MedsynthError, match=f"scale is {scale}, and this model makes x2: .*{advice}"):
        finer(saved(), scale=scale)


def test_tiles_that_cannot_be_are_refused():
    with pytest.raises(MedsynthError, match="tile_size is 4: give a whole number, 8 or more"):
        SliceUpscaler(untrained(), tile_size=4)
    with pytest.raises(MedsynthError, match="overlap is -1"):
        SliceUpscaler(untrained(), overlap=-1)


def test_pixel_grids_of_every_plane_have_an_affine_of_their_own(saved):
    for plane, axes in PLANES.items():
        upright = read_upright(Source(str(saved("ASL"))), Preprocessing("ct", BOUNDS, None, 32, plane=plane))
        assert "".join(nib.aff2axcodes(upright.affine)) == axes
        volume, affine = upright.to_file(upright.values.numpy())  # as many pixels as before: the file again
        np.testing.assert_array_equal(volume, np.asarray(nib.load(saved("ASL")).dataobj))
        np.testing.assert_allclose(affine, nib.load(saved("ASL")).affine, atol=1e-4)
