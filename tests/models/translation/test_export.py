from __future__ import annotations

import json
from pydoc import locate

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.translation.export import export_weights
from medsynth.models.translation.network import Translator
from medsynth.nn.patch_discriminator import Discriminators
from medsynth.run.recipe import load_model, save_model


@pytest.fixture
def model(tmp_path):
    """A translator with its discriminators, as loaded from its file."""

    def make(discriminators: bool = True):
        arguments = {"image_size": 16, "neighbours": 0, "channels": [8, 16], "latent_channels": 2}
        arguments |= {"kernel_sizes": [3, 5], "use_position": True}
        definition = {"_target_": "medsynth.models.translation.network.Translator"} | arguments
        judge = {"channels": 8, "num_layers": 1, "num_scales": 1, "norm": "spectral"}
        judges = ({"_target_": "medsynth.nn.patch_discriminator.Discriminators"} | judge, Discriminators(**judge))
        save_model(
            tmp_path / "model.pt",
            Translator(**arguments),
            definition,
            {},
            discriminator=judges if discriminators else None,
        )
        return load_model(tmp_path / "model.pt")

    return make


def test_each_network_is_rebuilt_from_its_own_file(model, tmp_path):
    loaded = model()
    export_weights(loaded, tmp_path / "weights")
    definitions = json.loads((tmp_path / "weights" / "networks.json").read_text())
    expected = {
        "g_target": loaded.network.source_to_target,
        "g_source": loaded.network.target_to_source,
        "d_source": loaded.discriminator.source,
        "d_target": loaded.discriminator.target,
    }
    for name, network in expected.items():
        arguments = definitions[name]
        rebuilt = locate(arguments.pop("_target_"))(**arguments)
        rebuilt.load_state_dict(torch.load(tmp_path / "weights" / f"{name}.pt", weights_only=True))
        for key, value in network.state_dict().items():
            assert torch.equal(rebuilt.state_dict()[key], value)


def test_a_model_without_discriminators_exports_its_generators(model, tmp_path):
    paths = export_weights(model(discriminators=False), tmp_path / "weights")
    assert [path.name for path in paths] == ["g_target.pt", "g_source.pt"]


def test_weights_that_are_there_are_kept_unless_told_otherwise(model, tmp_path):
    loaded = model()
    export_weights(loaded, tmp_path / "weights")
    with pytest.raises(MedsynthError, match="is there already"):
        export_weights(loaded, tmp_path / "weights")
    export_weights(loaded, tmp_path / "weights", overwrite=True)
