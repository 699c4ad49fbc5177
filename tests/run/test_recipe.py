from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import FullyConnectedNet

from medsynth.errors import MedsynthError
from medsynth.models.translation.network import Translator
from medsynth.nn.patch_discriminator import Discriminators
from medsynth.run.recipe import LoadedModel, load_model, save_model

DEFINITION = {
    "_target_": "monai.networks.nets.FullyConnectedNet",
    "in_channels": 3,
    "out_channels": 2,
    "hidden_channels": [4],
}
PREPROCESSING = {"modality": "ct", "window": [-1000.0, 1000.0], "image_size": 64}


def network() -> FullyConnectedNet:
    torch.manual_seed(0)
    return FullyConnectedNet(3, 2, [4])


def rewrite(path: Path, **parts: Any) -> None:
    """Change a model.pt as someone with ill intent could."""
    torch.save(torch.load(path, weights_only=True) | parts, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    extra = {"metrics": {"fd": 3.5}, "mean": torch.arange(3.0)}
    save_model(path, network(), DEFINITION, PREPROCESSING, ["AD", "NC"], extra)
    return path


def test_a_model_comes_back_as_it_was(path):
    model = load_model(path)
    image = torch.randn(5, 3)
    assert torch.equal(model.network(image), network().eval()(image))
    assert not model.network.training
    assert (model.definition, model.preprocessing, model.classes) == (DEFINITION, PREPROCESSING, ["AD", "NC"])
    assert model.extra["metrics"] == {"fd": 3.5}
    assert torch.equal(model.extra["mean"], torch.tensor([0.0, 1.0, 2.0]))
    assert model.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_network_within_a_network_is_built_too(tmp_path):
    inner = DEFINITION | {"out_channels": 3}
    definition = {
        "_target_": "monai.networks.blocks.ADN",
        "in_channels": 3,
        "act": "relu",
        "norm": None,
        "dropout": None,
    }
    save_model(tmp_path / "model.pt", torch.nn.Identity(), definition | {"ordering": "A"}, {}, [])
    assert isinstance(load_model(tmp_path / "model.pt").network[0], torch.nn.ReLU)
    nested = {"_target_": "monai.networks.layers.SkipConnection", "submodule": inner}
    from monai.networks.layers import SkipConnection

    save_model(tmp_path / "nested.pt", SkipConnection(FullyConnectedNet(3, 3, [4])), nested, {}, [])
    assert isinstance(load_model(tmp_path / "nested.pt").network.submodule, FullyConnectedNet)


@pytest.mark.parametrize(
    "definition",
    [
        DEFINITION | {"in_channels": "$__import__('os').getpid()"},
        DEFINITION | {"hidden_channels": ["@hidden"]},
        DEFINITION | {"adn_ordering": "%other.json#key"},
        DEFINITION | {"$in_channels": 3},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        {"_target_": "monai.bundle.ConfigParser"},
        {"_target_": "monai.networks.nets"},
        {"_target_": "monai.networks.utils.torch.nn.Linear", "in_features": 3, "out_features": 2},
        {"_target_": "monai.networks.blocks.crf.BilateralFilter"},
        {"_target_": "monai.networks.nets.fullyconnectednet.nn.Linear", "in_features": 3, "out_features": 2},
        {"_target_": "monai.networks.utils.save_state", "src": {}, "path": "x"},
        {"_target_": ["monai.networks.nets.FullyConnectedNet"]},
        DEFINITION | {"act": {"_target_": "os.getpid"}},
        {},
    ],
)
def test_a_definition_that_is_more_than_a_network_is_refused_on_saving_and_on_loading(path, tmp_path, definition):
    rewrite(path, definition=definition)
    with pytest.raises(MedsynthError):
        load_model(path)
    with pytest.raises(MedsynthError):
        save_model(tmp_path / "new.pt", network(), definition, PREPROCESSING)
    assert not (tmp_path / "new.pt").exists()


@pytest.mark.parametrize(
    ("preprocessing", "found"),
    [
        ({"modality": "mri", "image_size": 8}, ["mri"]),
        ({"source": {"modality": "mri"}, "target": {"modality": "ct"}}, ["ct", "mri"]),
        ({"source": {"modality": "image"}, "target": {"modality": "image"}}, ["image"]),
    ],
)
def test_a_model_has_the_modalities_of_its_domains(preprocessing, found):
    assert LoadedModel(torch.nn.Identity(), preprocessing, [], {}, "", {}).modalities == found


def test_an_expression_in_the_preprocessing_is_refused(path):
    rewrite(path, preprocessing={"modality": ["$exit()"]})
    with pytest.raises(MedsynthError, match="is an expression"):
        load_model(path)


def test_weights_of_another_architecture_are_refused(path):
    rewrite(path, definition=DEFINITION | {"hidden_channels": [5]})
    with pytest.raises(MedsynthError, match="weights are of another network"):
        load_model(path)


def test_arguments_that_the_network_does_not_take_are_refused(path):
    rewrite(path, definition=DEFINITION | {"depth": 5})
    with pytest.raises(MedsynthError, match="cannot be built"):
        load_model(path)


def test_a_checkpoint_instead_of_a_model_is_refused(path):
    torch.save({"format": 1, "stateful": {}}, path)
    with pytest.raises(MedsynthError, match="use the run's model.pt, not its checkpoints"):
        load_model(path)


@pytest.mark.parametrize(
    ("format", "advice"), [(1, "train it again"), (None, "train it again"), (10**6, "upgrade medsynth")]
)
def test_a_model_of_another_format_is_refused_with_the_version_that_made_it(path, format, advice):
    rewrite(path, format=format, version="0.1.0")
    line = f"{path} was made by medsynth 0.1.0, whose models this version cannot read: {advice}"
    with pytest.raises(MedsynthError, match=f"^{re.escape(line)}$"):
        load_model(path)


def test_a_run_folder_instead_of_its_model_is_refused(path):
    with pytest.raises(MedsynthError, match="is a folder: give the model in it, .*model.pt"):
        load_model(path.parent)


def test_the_former_model_stays_when_saving_fails(path):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="only tensors and plain values"):
        save_model(path, network(), DEFINITION, PREPROCESSING, [], {"metrics": {1, 2}})
    assert path.read_bytes() == before


def test_a_discriminator_comes_back_beside_its_network(tmp_path):
    judges = {"channels": 4, "num_layers": 1, "num_scales": 1, "norm": "spectral"}
    definition = {"_target_": "medsynth.nn.patch_discriminator.Discriminators"} | judges
    judge = Discriminators(**judges)
    arguments = {"image_size": 16, "neighbours": 0, "channels": [8, 8], "latent_channels": 4}
    arguments |= {"kernel_sizes": [3], "use_position": True}
    network = {"_target_": "medsynth.models.translation.network.Translator"} | arguments
    save_model(tmp_path / "model.pt", Translator(**arguments), network, {}, discriminator=(definition, judge))
    found = load_model(tmp_path / "model.pt").discriminator
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(found.source(image)[0][0], judge.eval().source(image)[0][0])
