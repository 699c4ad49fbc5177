"""Export of the single networks of a translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from medsynth.errors import MedsynthError
from medsynth.models.translation.network import Translator
from medsynth.run.recipe import LoadedModel
from medsynth.storage import disk_errors, save_plain, write_text


def export_weights(model: LoadedModel, folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the weights of each network to a file, and their definitions to `networks.json`.

    `g_target` translates sources to targets, and `g_source` targets to sources; `d_source` and `d_target` are the
    discriminators of the domains, if the model holds them. Several contrasts have no `g_source` and `d_source`.

    Returns: the files of weights, each a state dictionary.

    Raises:
        MedsynthError: the model is no translation, or a file is there already.
    """
    if not isinstance(model.network, Translator):
        raise MedsynthError(
            f"the checkpoint holds a {type(model.network).__name__}: give the model.pt of a translation"
        )
    folder = Path(folder)
    networks = _networks(model)
    paths = {name: folder / f"{name}.pt" for name in networks}
    table = folder / "networks.json"
    if not overwrite and (found := [path for path in (*paths.values(), table) if path.exists()]):
        raise MedsynthError(f"{found[0]} is there already: give another folder, or --overwrite to replace it")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (network, _) in networks.items():
        save_plain(paths[name], {key: value.detach().cpu() for key, value in network.state_dict().items()})
    definitions = {name: definition for name, (_, definition) in networks.items()}
    write_text(table, json.dumps(definitions | {"model_sha256": model.digest}, indent=4) + "\n")
    return list(paths.values())


def _networks(model: LoadedModel) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Name -> network and its definition."""
    own = {key: value for key, value in model.definition.items() if key not in ("_target_", "image_size", "contrasts")}
    generator = {"_target_": "medsynth.models.translation.network.UNetVae"} | own
    if contrasts := model.network.contrasts:
        found = {"g_target": (model.network.source_to_target, generator | {"contrasts": len(contrasts)})}
    else:
        found = {
            "g_target": (model.network.source_to_target, generator),
            "g_source": (model.network.target_to_source, generator),
        }
    if model.discriminator is not None:
        own = {key: value for key, value in model.discriminator_definition.items() if key != "_target_"}
        discriminator = {
            "_target_": "medsynth.nn.patch_discriminator.MultiScalePatchDiscriminator",
            "in_channels": 1,
        } | own
        if not contrasts:
            found["d_source"] = (model.discriminator.source, discriminator)
        found["d_target"] = (model.discriminator.target, discriminator)
    return found
