from __future__ import annotations

import itertools
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation
from nibabel.orientations import axcodes2ornt
from scipy.spatial.transform import Rotation

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.io import itk
from medsynth.data.io.dicom_export import export
from medsynth.data.io.sources import Source, find_images
from medsynth.data.preprocessing.foreground import Patient
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.volumes import ReadyVolume, VolumeInferer, VolumeRequest, read_ready, sampled, write_volumes

SHAPE = (22, 26, 18)
AFFINE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [0.1, -0.05, 0.2]).as_matrix() * [3, 2.5, 4], [-30, -35, -20]
)
ORIENTATIONS = [
    "".join(sides) for axes in itertools.permutations(("LR", "PA", "IS")) for sides in itertools.product(*axes)
]
CT = SliceSpace("ct", (3.0, 2.5), 4.0, (-1000.0, 2000.0))
CT_INPUT = Preprocessing("ct", (-1000.0, 2000.0), None, 32)


def identity(slices: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return slices[:, slices.shape[1] // 2, None]


def nothing(slices: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(slices)


def ready_of(values: torch.Tensor, spacing_mm=(1.0, 1.0, 1.0), low=-1.0) -> ReadyVolume:
    """Values (rows, columns, slices) in [-1, 1] as a volume that is upright and all head but for those of `low`."""
    affine = torch.diag(torch.tensor([-spacing_mm[1], -spacing_mm[0], spacing_mm[2], 1.0]))
    image = Orientation(axcodes="PLS", labels=None)(MetaTensor(values.transpose(0, 1)[None], affine=affine))
    inside = values.numpy() > low
    box = np.array([(np.flatnonzero(inside.any(others))[[0, -1]] + [0, 1]) for others in ((1, 2), (0, 2), (0, 1))])
    head = Patient(values.shape, spacing_mm, box, inside, (1, 1, 1), values[inside].numpy(), -1.0)
    return ReadyVolume(image, head, np.ones(values.shape, bool), [-1.0], (-1.0, 1.0), Compose([]))


@pytest.fixture
def head() -> np.ndarray:
    """A noisy ellipsoid of some 40 HU in a shell of bone, in air."""
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE)
    return np.select([radius < 0.7, radius < 0.95], [40 + noise, 900 + noise], -1000).astype(np.int16)


@pytest.fixture
def saved(tmp_path, head):
    """The head's file, its axes stored in this order."""

    def save(orientation: str = "RAS", code: int = 1):
        image = nib.Nifti1Image(head, AFFINE).as_reoriented(axcodes2ornt(orientation))
        image.set_sform(image.affine, code)
        image.set_qform(image.affine, code)
        nib.save(image, tmp_path / f"Doe_Jane_{orientation}.nii.gz")
        return tmp_path / f"Doe_Jane_{orientation}.nii.gz"

    return save


@pytest.fixture
def through(tmp_path):
    """Write what a network makes of a file; the folder."""

    def write(path, network=identity, inferer=None, space=CT, overwrite=False, **options):
        options = {"clean_background": False} | options
        output = ImageFolder(tmp_path / "out", "toy", "abc", overwrite)
        request = VolumeRequest("source_to_target", space, **options)
        write_volumes([{"image": str(path)}], network, inferer or VolumeInferer(CT_INPUT), output, request)
        return tmp_path / "out"

    return write


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_identity_gives_any_orientation_back_voxel_for_voxel(saved, orientation):
    path = saved(orientation)
    ready = read_ready(Source(str(path)), CT_INPUT)
    answer = VolumeInferer(CT_INPUT, planes=("axial", "coronal", "sagittal"))(ready, identity)
    image = nib.load(path)
    np.testing.assert_array_equal(CT.to_units(ready.back(answer)), np.asarray(image.dataobj))
    np.testing.assert_allclose(ready.affine, image.affine, atol=1e-4)
    assert itk.affine_of(sitk.ReadImage(str(path))) == pytest.approx(ready.affine, abs=1e-4)


@pytest.mark.parametrize("code", [1, 2])
def test_the_output_has_the_input_s_grid_codes_and_units(saved, through, code):
    path = saved("PSR", code)
    (file,) = (through(path) / "images").glob("*.nii.gz")
    made, image = nib.load(file), nib.load(path)
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(image.dataobj))
    np.testing.assert_allclose(made.affine, image.affine, atol=1e-4)
    np.testing.assert_allclose(made.get_qform(), made.get_sform(), atol=1e-4)
    assert made.header["sform_code"] == made.header["qform_code"] == code
    assert (made.get_data_dtype(), made.dataobj.slope, made.dataobj.inter) == (np.int16, 1, 0)
    assert made.header.get_xyzt_units()[0] == "mm"


def test_a_dicom_series_comes_back_as_nifti_and_as_dicom(head, through, tmp_path):
    export(head, AFFINE, tmp_path / "series", "ct", "test")
    (first,) = find_images(tmp_path / "series")
    out = through(first, dicom=True)
    grid = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    (file,) = (out / "images").glob("*.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj), itk.voxels_of(grid))
    np.testing.assert_allclose(nib.load(file).affine, itk.affine_of(grid), atol=1e-4)
    (series,) = (out / "dicom").iterdir()
    again = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    np.testing.assert_array_equal(itk.voxels_of(again), itk.voxels_of(grid))
    np.testing.assert_allclose(itk.affine_of(again), itk.affine_of(grid), atol=1e-4)


def test_nothing_of_the_input_s_name_is_in_any_output(saved, through):
    out = through(saved(), num_samples=2)
    for path in out.rglob("*"):
        assert "Doe" not in path.name
        assert path.is_dir() or b"Doe" not in path.read_bytes()
    (sidecar,) = (json.loads(path.read_text()) for path in (out / "images").glob("*0.json"))
    assert sidecar["Synthetic"] is True
    assert sidecar["Sources"] == [f"hash://sha256/{sidecar['InputDigest']}"]
    assert sidecar["Units"] == "HU"
    assert (out / "dataset_description.json").is_file()


def test_existing_results_are_overwritten_only_on_request(saved, through):
    path = saved()
    before = sorted(p.read_bytes() for p in (through(path) / "images").glob("*.nii.gz"))
    with pytest.raises(MedsynthError, match="is there already"):
        through(path, nothing)
    assert sorted(p.read_bytes() for p in (through(path, overwrite=True) / "images").glob("*.nii.gz")) == before


def test_outside_the_head_there_is_air_in_ct(saved, through):
    (file,) = (through(saved(), nothing, clean_background=True) / "images").glob("*.nii.gz")
    made = np.asarray(nib.load(file).dataobj)
    assert made[0, 0, 0] == -1000
    assert made[11, 13, 9] == 500  # half way between the bounds


def test_mean_and_deviation_of_samples_by_hand(saved, through):
    values = iter([-0.5, 0.0, 0.8])

    class Counting(VolumeInferer):
        def __call__(self, volume, network):
            current = next(values)
            return super().__call__(volume, lambda slices, _: torch.full_like(slices, current))

    out = through(saved(), inferer=Counting(CT_INPUT), num_samples=3)
    mean, deviation = (np.asarray(nib.load(path).dataobj) for path in sorted((out / "images").glob("*.nii.gz")))
    assert np.unique(mean).tolist() == [-1000, 650]  # where no head is, and 0.1 of 1500 HU above 500
    np.testing.assert_allclose(deviation[mean == 650], 1500 * np.std([-0.5, 0.0, 0.8], ddof=1), rtol=1e-5)


def test_samples_depend_on_the_seed_alone():
    volume = ready_of(torch.zeros(8, 8, 4))
    inferer = VolumeInferer(Preprocessing("ct", None, None, 8))
    draw = lambda seed: sampled(inferer, volume, lambda x, _: torch.randn_like(x), 2, seed)[0]  # noqa: E731
    state = torch.random.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.random.get_rng_state())


def test_each_plane_shows_the_network_upright_slices(saved, head):
    ready = read_ready(Source(str(saved("SLA"))), CT_INPUT)
    seen = {}
    for plane in ("axial", "coronal", "sagittal"):
        VolumeInferer(CT_INPUT, (plane,), batch_size=32)(ready, lambda x, _, p=plane: seen.setdefault(p, x) * 0)
    sizes = {
        plane: tuple((x[:, 0] > -1).any(0).any(1 - axis).sum().item() for axis in (0, 1)) for plane, x in seen.items()
    }
    x, y, z = ((head > -1000).any(axes).sum() for axes in ((1, 2), (0, 2), (0, 1)))
    assert sizes == {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}  # rows, columns


@pytest.mark.parametrize("plane", ["axial", "coronal"])
@pytest.mark.parametrize("neighbours", [0, 1])
def test_the_network_sees_slices_like_those_of_training(saved, plane, neighbours):
    path = str(saved("LSA"))
    preprocessing = Preprocessing("ct", (-1000.0, 2000.0), (2.2, 2.2), 28, plane=plane, neighbours=neighbours)
    learned = SliceDataset([{"image": path, "subject": "a", "label": None}], preprocessing)
    seen: list[tuple] = []
    VolumeInferer(preprocessing)(
        read_ready(Source(path), preprocessing),
        lambda x, p: (seen.extend(zip(x.clone(), p, strict=True)), identity(x, p))[1],
    )
    known = {round(position.item(), 5): slices for slices, position in seen}
    inner = [item for item in learned if 0 < item["position"] < 1]  # beyond the head, positions stay at 0 and 1
    assert len(inner) > 8
    for item in inner:
        torch.testing.assert_close(
            known[round(item["position"].item(), 5)], item["image"], atol=2e-3, rtol=0
        )  # float16


def test_positions_are_unknown_in_a_plane_that_the_network_was_not_trained_on():
    unknown = []
    inferer = VolumeInferer(Preprocessing("ct", None, None, 8), planes=["axial", "coronal"])
    inferer(ready_of(torch.zeros(8, 8, 4)), lambda x, p: (unknown.append(p.isnan().all().item()), x)[1])
    assert unknown == [False, True]


def test_a_head_larger_than_the_network_s_slices_is_processed_in_tiles_without_seams(saved):
    small = replace(CT_INPUT, image_size=16)
    ready = read_ready(Source(str(saved())), small)
    sizes = set()
    answer = VolumeInferer(small, overlap=0.5)(ready, lambda x, p: (sizes.add(tuple(x.shape[2:])), identity(x, p))[1])
    torch.testing.assert_close(answer, ready.image.as_tensor(), atol=1e-5, rtol=0)
    assert sizes == {(16, 16)}


def test_a_head_that_fits_is_one_tile_though_the_volume_is_larger():
    values = torch.full((40, 44, 3), -1.0)
    values[20:36, 10:26] = 0.5
    counts = []
    answer = VolumeInferer(Preprocessing("ct", None, None, 16))(
        ready_of(values), lambda x, p: (counts.append(len(x)), identity(x, p))[1]
    )
    assert sum(counts) == 3
    assert torch.equal(answer[0], values)


def test_neighbours_are_the_slices_below_and_above():
    volume = ready_of(torch.arange(4.0).expand(8, 8, 4) / 4)
    inferer = VolumeInferer(Preprocessing("ct", None, None, 8, neighbours=1))
    answer = inferer(volume, lambda x, _: x[:, 2:] - x[:, :1])
    np.testing.assert_allclose(answer[0, 0, 0], [0.25, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (2.0, 2.0), (0.7, 0.7), (1.3, 1.9)])
def test_a_ramp_survives_another_spacing_and_the_way_back(spacing_mm):
    rows, columns = torch.meshgrid(torch.linspace(-0.8, 0.8, 20), torch.linspace(-0.5, 0.5, 31), indexing="ij")
    volume = ready_of((rows + 0.3 * columns)[..., None].expand(20, 31, 2).contiguous(), (1.0, 1.1, 3.0))
    answer = VolumeInferer(Preprocessing("ct", None, spacing_mm, 64))(volume, identity)
    inner = (0, slice(3, -3), slice(3, -3))
    torch.testing.assert_close(answer[inner], volume.image.as_tensor()[inner], atol=6e-3, rtol=0)


@pytest.mark.parametrize(
    ("rows", "mm", "spacing_mm"), [(50, 1.2000000476837158, 6.0), (48, 1.2499, 5.0), (45, 7.0, 3.5)]
)
def test_spacings_that_fit_but_for_rounding_lose_no_row(rows, mm, spacing_mm):
    values = torch.zeros(rows, 8, 2)
    values[-8:] = 1
    preprocessing = Preprocessing("mri", None, (spacing_mm, 2.0), 32, region="head")
    answer = VolumeInferer(preprocessing)(ready_of(values, (mm, 2.0, 2.0)), identity)
    assert answer.shape == (1, rows, 8, 2)
    assert answer[0, [0, -1], 3, 0].tolist() == pytest.approx([0, 1], abs=0.05)


@pytest.mark.parametrize("planes", [("oblique",), "axial", []])
def test_planes_that_do_not_exist_are_refused(planes):
    with pytest.raises(MedsynthError, match="planes are .* give a list with some of axial"):
        VolumeInferer(CT_INPUT, planes)
