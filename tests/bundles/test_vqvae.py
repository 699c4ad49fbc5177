from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tables import texts

from medsynth.errors import as_line
from medsynth.run.recipe import load_model

ROOT = Path(__file__).parents[2]
SMALL = {
    "image_size": 32,
    "channels": [16, 32],
    "residual_layers": 1,
    "num_codes": 64,
    "code_features": 4,
    "batch_size": 8,
    "learning_rate": 0.0015,
    "epoch_length": 25,
    "codebook__warmup": 8,
    "ema_momentum": 0.1,
    "val_slices": 16,
    "sample_epochs": 2,
    "device": "cpu",
    "log_iterations": 5,
}


@pytest.fixture(scope="session")
def train(trains, heads) -> Callable[..., Path]:
    return trains("vqvae/train.json", heads, **SMALL)


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """The folder of a run of eight short epochs, the last of the second stage."""
    return train(tmp_path_factory.mktemp("vqvae") / "run", max_epochs=8, adversarial_epochs=1)


@pytest.fixture(scope="session")
def infer(run_bundle, trained) -> Callable[..., list[dict[str, str]]]:
    """Run inference on that model; returns the rows of images.csv."""

    def start(folder: Path, **overrides: object) -> list[dict[str, str]]:
        options = {"checkpoint": str(trained / "model.pt"), "device": "cpu", "output_dir": str(folder)} | overrides
        run_bundle("inference", "vqvae/inference.json", **options)
        return texts(folder / "images.csv")

    return start


@pytest.fixture(scope="session")
def head(heads) -> Path:
    """One volume of the phantom."""
    return heads.parent / json.loads(heads.read_text())["test"][0]["image"]


@pytest.fixture(scope="session")
def encoded(infer, head, tmp_path_factory) -> Path:
    """Its code map."""
    folder = tmp_path_factory.mktemp("encoded") / "out"
    (row,) = infer(folder, mode="encode", input=str(head))
    return folder / row["file"]


def test_reconstructions_of_held_out_subjects_get_closer_and_the_codebook_stays_in_use(trained):
    first, *_, last = texts(trained / "metrics.csv")
    assert float(last["psnr"]) > float(first["psnr"]) + 1
    assert float(last["ssim"]) > float(first["ssim"])
    assert float(last["codes_used"]) > 0.9
    assert float(last["perplexity"]) > 0.3 * SMALL["num_codes"]


def test_the_model_kept_holds_the_codes_and_says_how_good_it_is(trained):
    model = load_model(trained / "model.pt")
    assert model.network.num_codes == 64
    assert model.network.stride == 4
    psnr, averages = (model.extra["metrics"][name] for name in ("psnr", "psnr_averages"))
    better = "better" if psnr > averages else "no better"
    said = f"{better} than averages over each code's pixels (PSNR {psnr:.2f} dB, theirs {averages:.2f} dB)"
    assert model.extra["verdict"].startswith(said)
    indices = model.network.encode_indices(torch.rand(2, 1, 32, 32) * 2 - 1)
    assert indices.shape == (2, 8, 8)
    assert (trained / "samples/epoch_0000.png").is_file()
    assert (trained / "samples/epoch_0008.png").is_file()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"image_size": 30}, "image_size 30: this network needs a multiple of 4"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"code_features": 100}, "code_features is 100: give 4 to 16"),
        ({"codebook__decay": 2}, "codebook#decay is 2"),
        ({"weights__l1": -1}, "weights#l1 is -1"),
        ({"adversarial_epochs": 3, "max_epochs": 3}, "adversarial_epochs is 3, of 3 max_epochs"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(refusal, train, mistake, told):
    assert told in refusal(train, **mistake)


def test_a_decoded_code_map_is_the_reconstruction_in_the_units_and_the_place_of_the_input(
    infer, encoded, head, tmp_path
):
    (row,) = infer(tmp_path / "made", mode="reconstruct", input=str(head))
    (other,) = infer(tmp_path / "decoded", mode="decode", input=str(encoded))
    made, decoded = nib.load(tmp_path / "made" / row["file"]), nib.load(tmp_path / "decoded" / other["file"])
    assert np.array_equal(made.get_fdata(), decoded.get_fdata())
    np.testing.assert_allclose(made.affine, decoded.affine, atol=1e-4)
    assert made.get_fdata().max() > 10  # the input's units, not [0, 1]
    assert float(row["psnr"]) > 10


def test_a_code_map_lies_over_its_image(encoded, infer, head, tmp_path):
    (row,) = infer(tmp_path / "made", mode="reconstruct", input=str(head))
    codes, image = nib.load(encoded), nib.load(tmp_path / "made" / row["file"])
    assert codes.get_data_dtype() == np.uint16
    assert codes.shape == (8, 8, image.shape[2])
    np.testing.assert_allclose(codes.header.get_zooms()[:2], 4 * np.array(image.header.get_zooms()[:2]), rtol=1e-5)
    corners = [
        nib.affines.apply_affine(codes.affine, [-0.5, -0.5, 0]),
        nib.affines.apply_affine(image.affine, [-0.5, -0.5, 0]),
    ]
    np.testing.assert_allclose(*corners, atol=1e-3)


def test_bits_a_pixel_are_told_with_each_code_map(encoded):
    (row,) = texts(encoded.parents[1] / "images.csv")
    assert float(row["bits_per_pixel"]) == pytest.approx(6 / 16, abs=1e-4)
    values = nib.load(encoded).get_fdata()
    _, counts = np.unique(values[values < 64], return_counts=True)
    share = counts / counts.sum()
    assert float(row["entropy_per_pixel"]) == pytest.approx(-(share * np.log2(share)).sum() / 16, abs=1e-4)


def test_encoding_what_was_decoded_gives_most_of_the_codes_back(trained, encoded):
    network = load_model(trained / "model.pt").network
    values = np.moveaxis(nib.load(encoded).get_fdata(), -1, 0)
    indices = torch.from_numpy(values[(values < 64).any(axis=(1, 2))].astype(np.int64))
    decoded = network.decode_indices(indices)
    again = network.encode_indices(decoded)
    assert (again == indices).float().mean() > 0.3  # of 64 codes, each with neighbours that mean nearly the same
    to_itself, to_others = (
        (network.decode_indices(again) - images).abs().mean() for images in (decoded, decoded.flip(0))
    )
    assert to_itself < to_others / 2


@pytest.mark.parametrize(
    ("values", "sidecar", "told"),
    [
        (np.full((8, 8, 2), 64), {}, "holds no index, and this model's 64 codes are 0 to 63"),
        (np.arange(128).reshape(8, 8, 2), {}, "holds indices from 0 to 127, and this model's 64 codes are 0 to 63"),
        (np.zeros((16, 16, 2)), {}, "is 16 x 16 x 2, and code maps of this model are 8 x 8 a slice (image_size 32)"),
        (np.full((8, 8, 2), 0.5), {}, "holds values that are not whole"),
        (
            np.zeros((8, 8, 2)),
            {"Codes": 512},
            "was encoded with another codebook (Codes 512, and the checkpoint's is 64)",
        ),
        (np.zeros((8, 8, 2)), {"CodebookDigest": "0"}, "give the model.pt that it was encoded with"),
    ],
)
def test_a_code_map_of_another_model_is_refused_in_one_line(infer, tmp_path, values, sidecar, told):
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "map.nii.gz")
    (tmp_path / "map.json").write_text(json.dumps(sidecar))
    with pytest.raises(RuntimeError) as stopped:
        infer(tmp_path / "out", mode="decode", input=str(tmp_path / "map.nii.gz"))
    assert told in as_line(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_code_map_without_sidecar_comes_out_from_0_to_1(infer, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.uint8), np.eye(4)), tmp_path / "map.nii.gz")
    (row,) = infer(tmp_path / "out", mode="decode", input=str(tmp_path / "map.nii.gz"))
    image = nib.load(tmp_path / "out" / row["file"])
    assert image.shape == (32, 32, 1)
    assert 0 <= image.get_fdata().min() <= image.get_fdata().max() <= 1
    np.testing.assert_allclose(image.header.get_zooms()[:2], (0.25, 0.25))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({}, "the checkpoint is of stage one, which cannot draw code maps: train a prior"),
        ({"mode": "encode"}, "mode is encode and there is no input"),
        ({"mode": "compress"}, "mode is 'compress': choose one of generate, reconstruct, encode, decode"),
        ({"mode": "reconstruct", "input": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist"),
    ],
)
def test_what_stage_one_cannot_do_is_told_in_one_line(infer, tmp_path, overrides, told):
    with pytest.raises(RuntimeError) as stopped:
        infer(tmp_path / "out", **overrides)
    assert told in as_line(stopped.value)


def test_the_evaluation_of_stage_one_measures_each_held_out_subject(run_bundle, trained, heads, tmp_path):
    options = {"checkpoint": str(trained / "model.pt"), "real": str(heads), "split": "both", "device": "cpu"}
    run_bundle("evaluation", "vqvae/evaluate.json", output_dir=str(tmp_path), **options)
    subjects = texts(tmp_path / "metrics.csv")
    listed = json.loads(heads.read_text())
    assert [row["subject"] for row in subjects] == [e["subject"] for s in ("validation", "test") for e in listed[s]]
    measures = json.loads((tmp_path / "metrics.json").read_text())
    assert measures["psnr"]["value"] == pytest.approx(np.mean([float(row["psnr"]) for row in subjects]))
    assert measures["psnr"]["split"] == "both"
    assert measures["bits_per_pixel"]["value"] == 6 / 16
    assert 0 < measures["entropy_per_pixel"]["value"] <= 6 / 16
    assert measures["psnr"]["data_range"].endswith("range 1")
    assert 1 < measures["perplexity"]["value"] <= 64
    assert "bits a pixel" in (tmp_path / "report.html").read_text()
