from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.packaging.deploy import callable_network, describe_formats, export_network
from medsynth.packaging.leaks import refuse_leaks
from medsynth.run.recipe import LoadedModel, load_model

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.parent.name for path in (ROOT / "bundles").glob("*/train.json"))


@pytest.fixture
def described(untrained):
    """A model of a system, and its metadata."""

    def load(stem: str) -> tuple[LoadedModel, dict]:
        model = load_model(untrained(stem))
        metadata = json.loads((ROOT / "bundles" / stem / "metadata.json").read_text())
        formats = describe_formats(metadata["network_data_format"], model)
        return model, metadata | {"network_data_format": formats}

    return load


def images(outputs) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize("stem", STEMS)
def test_torchscript_gives_the_images_of_the_network_and_holds_no_paths(described, stem, tmp_path):
    model, metadata = described(stem)
    path = export_network("torchscript", model, metadata, tmp_path)
    network, examples = callable_network(model, metadata)
    one = [example[1:] * 0.5 if example.is_floating_point() else example[1:] for example in examples]
    with torch.no_grad():
        for found, expected in zip(images(torch.jit.load(path)(*one)), images(network(*one)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    refuse_leaks(tmp_path, set())
    with zipfile.ZipFile(path) as archive:
        assert any(name.endswith("extra/metadata.json") for name in archive.namelist())


@pytest.mark.parametrize("stem", ["vaegan", "translation"])
def test_onnx_gives_the_images_of_the_network_and_holds_no_paths(described, stem, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, metadata = described(stem)
    path = export_network("onnx", model, metadata, tmp_path)
    network, examples = callable_network(model, metadata)
    one = [example[1:] for example in examples]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {item.name: tensor.numpy() for item, tensor in zip(session.get_inputs(), one, strict=True)}
    assert list(given) == network.names
    with torch.no_grad():
        for found, expected in zip(session.run(None, given), images(network(*one)), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)
    refuse_leaks(tmp_path, set())


def test_what_onnx_cannot_express_is_refused_in_one_line(described, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with pytest.raises(MedsynthError, match="RRDBNet cannot be exported as onnx .*: leave --export out"):
        export_network("onnx", *described("superres"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(described, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MedsynthError, match=r"pip install 'medsynth\[onnx\]'"):
        export_network("onnx", *described("vaegan"), tmp_path)


def test_a_network_that_is_not_a_single_call_is_refused(described):
    model, metadata = described("vaegan")
    inputs = metadata["network_data_format"]["inputs"]
    inputs["another"] = inputs["image"]
    with pytest.raises(MedsynthError, match="not a single call from image and another"):
        callable_network(model, metadata)
