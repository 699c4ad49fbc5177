from __future__ import annotations

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from nibabel.orientations import axcodes2ornt
from scipy.spatial.transform import Rotation

from medsynth.data import itk
from medsynth.data.dicom_export import export
from medsynth.data.output import ImageFolder, SliceSpace
from medsynth.data.pipelines import Preprocessing
from medsynth.data.sources import Source, find_images
from medsynth.errors import MedsynthError
from medsynth.inference.volumes import VolumeInferer, VolumeRequest, read_ready, sampled, write_volumes

SHAPE = (22, 26, 18)
AFFINE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [0.1, -0.05, 0.2]).as_matrix() * [3, 2.5, 4], [-30, -35, -20]
)
ORIENTATIONS = [
    "".join(sides) for axes in itertools.permutations(("LR", "PA", "IS")) for sides in itertools.product(*axes)
]
CT = SliceSpace("ct", (3.0, 2.5), 4.0, (-1000.0, 2000.0))
CT_INPUT = Preprocessing("ct", (-1000.0, 2000.0), None, 32)


def identity(slices: torch.Tensor) -> torch.Tensor:
    return slices[:, slices.shape[1] // 2, None]


@pytest.fixture
def head() -> np.ndarray:
    """A noisy ellipsoid of some 40 HU in a shell of bone, in air."""
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE)
    return np.select([radius < 0.7, radius < 0.95], [40, 900], -980).astype(np.int16) + noise.astype(np.int16)


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

    def write(path, network=identity, inferer=None, preprocessing=CT_INPUT, space=CT, overwrite=False, **options):
        options = {"clean_background": False} | options
        output = ImageFolder(tmp_path / "out", "toy", "abc", overwrite)
        inferer = inferer or VolumeInferer(32)
        request = VolumeRequest("source_to_target", **options)
        write_volumes([{"image": str(path)}], network, preprocessing, space, inferer, output, request)
        return tmp_path / "out"

    return write


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_identity_gives_any_orientation_back_voxel_for_voxel(saved, orientation):
    path = saved(orientation)
    ready = read_ready(Source(str(path)), CT_INPUT)
    answer = VolumeInferer(32, planes=("axial", "coronal", "sagittal"))(ready.image, identity)
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


def test_what_is_there_is_kept_unless_told_otherwise(saved, through):
    path = saved()
    before = sorted(p.read_bytes() for p in (through(path) / "images").glob("*.nii.gz"))
    with pytest.raises(MedsynthError, match="is there already"):
        through(path, torch.zeros_like)
    assert sorted(p.read_bytes() for p in (through(path, overwrite=True) / "images").glob("*.nii.gz")) == before


def test_outside_the_head_there_is_air_in_ct(saved, through):
    (file,) = (through(saved(), torch.zeros_like, clean_background=True) / "images").glob("*.nii.gz")
    made = np.asarray(nib.load(file).dataobj)
    assert made[0, 0, 0] == -1000
    assert made[11, 13, 9] == 500  # half way between the bounds


def test_mean_and_deviation_of_samples_by_hand(saved, through):
    values = iter([-0.5, 0.0, 0.8])

    def network(slices):
        return torch.full_like(slices, current)

    class Counting(VolumeInferer):
        def __call__(self, volume, network):
            nonlocal current
            current = next(values)
            return super().__call__(volume, network)

    current = 0.0
    out = through(saved(), network, Counting(32), num_samples=3)
    mean, deviation = (np.asarray(nib.load(path).dataobj) for path in sorted((out / "images").glob("*.nii.gz")))
    assert np.unique(mean).tolist() == [650]  # 0.1 of 1500 HU above 500
    np.testing.assert_allclose(deviation, 1500 * np.std([-0.5, 0.0, 0.8], ddof=1), rtol=1e-5)


def test_samples_depend_on_the_seed_alone():
    volume = MetaTensor(torch.zeros(1, 8, 8, 4), affine=torch.eye(4))
    draw = lambda seed: sampled(VolumeInferer(8), volume, lambda x: torch.randn_like(x), 2, seed)[0]  # noqa: E731
    state = torch.random.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.random.get_rng_state())


def test_each_plane_shows_the_network_upright_slices(saved):
    ready = read_ready(Source(str(saved("SLA"))), CT_INPUT)
    seen = {}
    for plane in ("axial", "coronal", "sagittal"):
        VolumeInferer(32, (plane,))(ready.image, lambda x, p=plane: seen.setdefault(p, x) * 0)
    sizes = {plane: tuple((x[0, 0] > -1).any(1 - axis).sum().item() for axis in (0, 1)) for plane, x in seen.items()}
    assert sizes == {"axial": (26, 22), "coronal": (18, 22), "sagittal": (18, 26)}  # rows, columns


def test_tiles_of_a_large_slice_are_blended_without_seams(saved):
    ready = read_ready(Source(str(saved())), CT_INPUT)
    answer = VolumeInferer(16, overlap=0.5)(ready.image, identity)
    torch.testing.assert_close(answer, ready.image.as_tensor(), atol=1e-5, rtol=0)


def test_neighbours_are_the_slices_below_and_above():
    volume = MetaTensor(torch.arange(4.0).expand(1, 8, 8, 4) / 4, affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))
    answer = VolumeInferer(8, neighbours=1)(volume, lambda x: x[:, 2:] - x[:, :1])
    np.testing.assert_allclose(answer[0, 0, 0], [0.25, 0.5, 0.5, 0.25])


def test_slices_of_another_spacing_reach_the_network_at_its_own():
    volume = MetaTensor(torch.rand(1, 20, 30, 2), affine=torch.diag(torch.tensor([-2.0, -1, 1, 1])))
    sizes = []
    answer = VolumeInferer(64, spacing_mm=(2.0, 2.0))(volume, lambda x: sizes.append((x > -1).sum().item()) or x)
    assert answer.shape == volume.shape
    assert sizes[0] in (2 * 15 * 20, 2 * 20 * 15)


def test_planes_that_do_not_exist_are_refused():
    with pytest.raises(MedsynthError, match="planes are .* choose some of axial"):
        VolumeInferer(8, ("oblique",))
