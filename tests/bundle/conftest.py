from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medsynth.bundle.recipe import save_model
from medsynth.data.pipelines import Preprocessing

ROOT = Path(__file__).parents[2]
SMALL = {
    "vaegan": {"image_size": 32, "channels": 8, "latent_features": 8},
    "translation": {"image_size": 32, "channels": [8, 16], "latent_channels": 4, "neighbours": 1},
    "superres": {"channels": 8, "growth": 8, "neighbours": 1},
    "stylegan": {"image_size": 32, "channels": 8, "latent_features": 16, "style_features": 16, "mapping_layers": 2},
    "vqvae": {"image_size": 32, "channels": [8, 16], "num_codes": 16},
}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Callable[[str], Path]:
    """The model.pt of a system with a small network that has learned nothing, in a folder of its own."""

    def save(stem: str) -> Path:
        torch.manual_seed(0)
        parser = ConfigParser(config=ConfigParser.load_config_file(ROOT / "bundles" / stem / "train.json"))
        parser.update(SMALL.get(stem, {}))
        parser["classes"] = [] if stem == "superres" else ["AD", "NC"]
        network = parser.get_parsed_content("network_def")
        definition = {
            name: parser.get_parsed_content(f"network_def#{name}", default=None) for name in parser["network_def"]
        }
        definition["_target_"] = parser["network_def"]["_target_"]
        recipe = Preprocessing("mri", None, [2.0, 2.0], 32, neighbours=definition.get("neighbours", 0)).to_dict()
        path = tmp_path_factory.mktemp(stem) / "model.pt"
        domains = {"source": recipe, "target": recipe} if stem == "translation" else recipe
        space = {"modality": "mri", "spacing_mm": (2.0, 2.0), "slice_mm": 2.0, "bounds": None, "plane": "axial"}
        extra = {"slices": space, "spaces": {"source": space, "target": space}, "iteration": 7, "scale": 2}
        save_model(path, network, definition, domains, parser["classes"], extra)
        return path

    return save
