"""Bodies through the routes of inference: every slice, the whole field of view, in any orientation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy import ndimage
from torch import nn

from medsynth.data.io.sources import Source
from medsynth.data.phantom import trunk
from medsynth.data.phantom.phantom import draw_modality
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.inference.reconstruct import read_stack
from medsynth.inference.volumes import VolumeInferer, read_ready
from medsynth.models.superres.inference import read_upright

ORIENTATIONS = [
    "".join(sides) for axes in itertools.permutations(("LR", "PA", "IS")) for sides in itertools.product(*axes)
]
MM = 8.0
CT = SliceSpace("ct", (MM, MM), MM, (-1000.0, 2000.0))
INPUT = Preprocessing("ct", (-1000.0, 2000.0), None, 32, region="body")


def identity(slices: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return slices[:, slices.shape[1] // 2, None]


@pytest.fixture(scope="module")
def body() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT and affine of an oblique phantom, and where its table is."""
    figure = trunk.build_body(3, "slim", MM)
    table = np.isin(figure.labels(), [trunk.TISSUES.index(tissue) for tissue in ("table", "foam")])
    return draw_modality(figure, "CT", 3), figure.affine, table


@pytest.fixture
def saved(tmp_path, body):
    def save(orientation: str):
        image = nib.Nifti1Image(body[0], body[1])
        turn = ornt_transform(axcodes2ornt(nib.aff2axcodes(body[1])), axcodes2ornt(orientation))
        nib.save(image.as_reoriented(turn), tmp_path / "body.nii.gz")
        return tmp_path / "body.nii.gz", image.as_reoriented(turn).affine

    return save


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_body_comes_back_from_every_route_voxel_for_voxel(saved, orientation):
    path, affine = saved(orientation)
    values = np.asarray(nib.load(path).dataobj)

    ready = read_ready(Source(str(path)), INPUT)
    answer = VolumeInferer(INPUT, planes=("axial", "coronal", "sagittal"))(ready, identity)
    outline = ready.back(torch.from_numpy(ready.outline)[None].float()) > 0.5
    np.testing.assert_array_equal(CT.to_units(ready.back(answer))[outline], values[outline])
    np.testing.assert_allclose(ready.affine, affine, atol=1e-3)

    upright = read_upright(Source(str(path)), INPUT)
    volume, same = upright.to_file(upright.values.numpy())
    np.testing.assert_array_equal(volume, values)
    np.testing.assert_allclose(same, affine, atol=1e-3)

    stack = read_stack(Source(str(path)), Preprocessing("ct", (-1000.0, 2000.0), None, 64, region="body"), CT)
    made = nib.as_closest_canonical(nib.Nifti1Image(stack.volume(stack.slices), stack.affine))
    world = made.affine @ [*(np.array(made.shape) // 2), 1]
    voxel = np.linalg.inv(affine) @ world
    np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-3)
    assert made.get_fdata()[tuple(np.array(made.shape) // 2)] == values[tuple(np.round(voxel[:3]).astype(int))]
    assert len(stack.slices) == values.shape[next(axis for axis in range(3) if orientation[axis] in "IS")]


def test_a_body_larger_than_a_tile_shows_no_trace_of_tiles(saved):
    path, _ = saved("RAS")
    ready, sizes, answers = read_ready(Source(str(path)), INPUT), [], []
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))  # sees 2 pixels
    for image_size in (32, 64):
        seen = lambda slices, _: (sizes.append(len(slices)), network(slices))[1]  # noqa: E731
        answers.append(VolumeInferer(replace(INPUT, image_size=image_size), overlap=0.25)(ready, seen))
    assert sum(sizes) > 2.5 * len(ready.patient.mask[0, 0])  # the first in two tiles or more, the other whole
    inner = ndimage.binary_erosion(ready.patient.whole_mask(), iterations=3)
    torch.testing.assert_close(answers[0][0][inner], answers[1][0][inner], atol=1e-4, rtol=0)


def test_the_table_is_outside_of_the_outline(saved, body):
    path, _ = saved("RAS")
    ready = read_ready(Source(str(path)), Preprocessing("ct", None, None, 32, region="body"))
    inside = ready.back(torch.from_numpy(ready.patient.whole_mask())[None].float()) > 0.5
    turned = nib.as_closest_canonical(nib.Nifti1Image(body[2].astype(np.uint8), body[1])).get_fdata() > 0
    assert inside[turned].mean() < 0.01


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_planes_have_slices_from_end_to_end(saved, plane):
    path, _ = saved("LPS")
    stack = read_stack(Source(str(path)), Preprocessing("ct", None, None, 64, plane=plane, region="body"), CT)
    assert stack.positions[0] < 0.1
    assert stack.positions[-1] > 0.9
