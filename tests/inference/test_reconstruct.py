from __future__ import annotations

import csv
import hashlib
import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from PIL import Image

from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.reconstruct import find_inputs, read_stack, reconstruct
from medsynth.run.recipe import load_model

TILT = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.15, -0.2), [7.0, -20.0, 31.0])


def save(path, volume, codes="RAS", mm=2.0):
    """A tilted volume with its axes stored as `codes` says."""
    image = nib.Nifti1Image(volume, TILT @ np.diag([mm, mm, mm, 1.0]))
    turned = nib.orientations.axcodes2ornt(codes, (("L", "R"), ("P", "A"), ("I", "S")))
    nib.save(image.as_reoriented(turned), path)
    return str(path)


def landmark(volume, affine, above):
    """Middle of the bright ball, in world coordinates."""
    return nib.affines.apply_affine(affine, np.argwhere(volume > above).mean(axis=0))


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SLA"])
@pytest.mark.parametrize("spacing", [2.0, 3.3])
def test_the_output_overlays_the_input(tmp_path, ball, codes, spacing):
    path = save(tmp_path / "v.nii.gz", ball, codes)
    source = nib.load(path)
    space = SliceSpace("mri", (spacing, spacing), 2.0, None)
    stack = read_stack(Source(path), Preprocessing("mri", (0, 400), None, 48), space)
    volume = stack.volume(stack.slices)
    expected = landmark(source.get_fdata(), source.affine, 250)
    np.testing.assert_allclose(landmark(volume, stack.affine, 250), expected, atol=0.15 * spacing)
    np.testing.assert_allclose(nib.affines.voxel_sizes(stack.affine), [spacing, spacing, 2.0], atol=1e-5)
    assert nib.aff2axcodes(stack.affine) == ("P", "L", "S")


def test_slices_come_back_exactly_in_the_units_of_the_image(tmp_path, ball):
    path = save(tmp_path / "v.nii.gz", ball)
    space = SliceSpace("mri", (2.0, 2.0), 2.0, None)
    stack = read_stack(Source(path), Preprocessing("mri", (0, 400), None, 64), space)
    volume, source = stack.volume(stack.slices), nib.load(path)
    to_source = np.linalg.inv(source.affine) @ stack.affine
    inside = np.argwhere(volume > 50)
    found = np.rint(nib.affines.apply_affine(to_source, inside)).astype(int)
    assert len(inside) > 10_000
    np.testing.assert_allclose(volume[tuple(inside.T)], source.get_fdata()[tuple(found.T)], atol=0.2)


def test_slices_left_out_between_others_are_air(tmp_path, ball):
    ball[:, :, 20:22] = 0
    ball[30, 32, 20:22] = 100  # one thread holds the head together
    path = save(tmp_path / "v.nii.gz", ball)
    space = SliceSpace("mri", (2.0, 2.0), 2.0, None)
    stack = read_stack(Source(path), Preprocessing("mri", (0, 400), None, 64), space)
    gap = np.setdiff1d(np.arange(stack.slice_indices[-1] + 1), stack.slice_indices)
    assert gap.size == 2
    assert (stack.volume(stack.slices)[..., gap] == 0).all()


def model_space(model):
    return SliceSpace(**model.extra["slices"])


def run(inputs, model, folder, batch_size=64):
    output = ImageFolder(folder, "vaegan", model.digest)
    reconstruct(inputs, model, SimpleInferer(), output, batch_size)
    return list(csv.DictReader((folder / "images.csv").open()))


def test_volumes_are_numbered_measured_and_carry_nothing_of_their_names(tmp_path, ball, model_pt):
    model = load_model(model_pt(spacing_mm=8.0))
    for name in ("MUELLER_19600101", "SCHMIDT_19700202"):
        save(tmp_path / f"{name}.nii.gz", ball)
    inputs = find_inputs(str(tmp_path))
    rows = run(inputs, model, tmp_path / "out")
    assert [row["file"] for row in rows] == [f"images/vaegan_reconstruct_000{i}.nii.gz" for i in (0, 1)]
    stack = read_stack(Source.of(inputs[0]), Preprocessing.from_dict(model.preprocessing), model_space(model))
    with torch.no_grad():
        fake = model.network(stack.slices, None, stack.positions)
    noise = (fake - stack.slices).square().flatten(1).mean(1)
    assert float(rows[0]["psnr"]) == pytest.approx((10 * torch.log10(4 / noise)).mean().item(), abs=1e-3)
    assert -1 < float(rows[0]["ssim"]) < 1
    sidecar = json.loads((tmp_path / "out" / rows[0]["file"].replace(".nii.gz", ".json")).read_text())
    content = (tmp_path / "MUELLER_19600101.nii.gz").read_bytes()
    assert sidecar["InputDigest"] == hashlib.sha256(content).hexdigest()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"MUELLER" in path.read_bytes() or "MUELLER" in path.name for path in written)
    assert nib.load(tmp_path / "out" / rows[0]["file"]).shape[:2] == (16, 16)


def test_the_batch_size_does_not_change_the_result(tmp_path, ball, model_pt):
    model = load_model(model_pt(spacing_mm=8.0))
    inputs = find_inputs(save(tmp_path / "v.nii.gz", ball))
    rows = [run(inputs, model, tmp_path / str(size), size)[0] for size in (3, 64)]
    volumes = [nib.load(tmp_path / str(size) / rows[0]["file"]).get_fdata() for size in (3, 64)]
    np.testing.assert_allclose(*volumes, atol=0.05)


def test_a_picture_of_the_right_size_comes_back_in_its_own_scale(tmp_path, model_pt):
    model = load_model(model_pt("image", (0.0, 255.0)))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    stack = read_stack(
        Source(str(tmp_path / "a.png")), Preprocessing.from_dict(model.preprocessing), model_space(model)
    )
    np.testing.assert_array_equal(stack.volume(stack.slices)[..., 0], pixels)
    rows = run(find_inputs(str(tmp_path / "a.png")), model, tmp_path / "out")
    image = nib.load(tmp_path / "out" / rows[0]["file"])
    assert image.shape == (16, 16, 1)
    assert image.get_data_dtype() == np.uint8


def test_a_reconstruction_as_png_is_numbered_and_carries_nothing_of_the_input_s_name(tmp_path, model_pt):
    model = load_model(model_pt("image", (0.0, 255.0)))
    Image.new("L", (16, 16), 99).save(tmp_path / "MUELLER.png")
    output = ImageFolder(tmp_path / "out", "vaegan", model.digest, format="png")
    reconstruct(find_inputs(str(tmp_path / "MUELLER.png")), model, SimpleInferer(), output, 8)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in output.images.iterdir()} == {
        "vaegan_reconstruct_0000.json",
        "vaegan_reconstruct_0000.png",
    }
    assert not any(b"MUELLER" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("name", "message"), [("none.nii.gz", "does not exist"), ("a.txt", "is not an image"), (".", "holds no image")]
)
def test_invalid_inputs_are_refused(tmp_path, name, message):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(MedsynthError, match=message):
        find_inputs(str(tmp_path / name))


def test_the_class_of_a_datalist_s_entry_reaches_the_network(tmp_path, ball, model_pt):
    model = load_model(model_pt(spacing_mm=8.0))
    save(tmp_path / "v.nii.gz", ball)
    entry = {"image": "v.nii.gz", "subject": "s", "label": "NC"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry]}))
    seen = []
    model.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    rows = run(find_inputs(str(tmp_path / "list.json")), model, tmp_path / "out")
    assert [row["split"] for row in rows] == ["training"]
    assert torch.cat(seen).unique().tolist() == [1]


def test_segmentations_among_the_pictures_of_a_folder_are_no_inputs(tmp_path, caplog):
    for name in ("images/p1_1.png", "masks/p1_1.png", "images/p2_1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    with caplog.at_level(logging.INFO):
        found = find_inputs(str(tmp_path))
    assert [entry["image"] for entry in found] == [str(tmp_path / f"images/p{i}_1.png") for i in (1, 2)]
    assert "1 segmentations, such as" in caplog.text
