"""model.pt: a network's weights with the recipe that rebuilds it. Opening one runs none of its code."""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medsynth.errors import MedsynthError, is_whole
from medsynth.run.model_file import require_model
from medsynth.storage import load_plain, save_plain

_FORMAT = 2  # raise it when an earlier model.pt no longer gives the same network or the same preprocessing
_PACKAGES = ("medsynth.models.", "medsynth.nn.", "monai.networks.")
log = logging.getLogger(__name__)

_PARTS = {"definition": dict, "weights": dict, "preprocessing": dict, "classes": list, "extra": dict}


@dataclass(frozen=True)
class LoadedModel:
    """What a model.pt holds.

    Attributes:
        network: rebuilt, on its device, in evaluation mode.
        discriminator: likewise, for measures that use it; None if the file has none.
        discriminator_definition: `_target_` and arguments of the discriminator.
        preprocessing: how its training images were prepared, as plain values.
        classes: names of its class indices, in order.
        definition: `_target_` and arguments of the network.
        digest: SHA-256 of the file.
        extra: what else was stored: counters, metrics, what the pixels of its slices stand for.
    """

    network: nn.Module
    preprocessing: dict[str, Any]
    classes: list[str]
    definition: dict[str, Any]
    digest: str
    extra: dict[str, Any]
    discriminator: nn.Module | None = None
    discriminator_definition: dict[str, Any] | None = None

    @property
    def modalities(self) -> list[str]:
        """Of its images; where it has two domains, of both."""
        recipes = (self.preprocessing, *self.preprocessing.values())
        return sorted({recipe["modality"] for recipe in recipes if isinstance(recipe, dict) and "modality" in recipe})


def save_model(
    path: Path | str,
    network: nn.Module,
    definition: dict[str, Any],
    preprocessing: dict[str, Any],
    classes: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
    discriminator: tuple[dict[str, Any], nn.Module] | None = None,
) -> None:
    """Write model.pt, completely or not at all.

    Args:
        definition: `_target_` and arguments of the network, plain values only (`Run.definition`).
        discriminator: definition and module of the discriminator, to save it too.
    """
    check_recipe(definition, preprocessing, str(path))
    weights = _weights(network)
    content = weights | {  # by their names too, where MONAI's `bundle.load` looks; tensors are stored once
        "format": _FORMAT,
        "version": version("medsynth"),
        "definition": definition,
        "weights": weights,
        "preprocessing": preprocessing,
        "classes": list(classes),
        "extra": extra or {},
    }
    if discriminator is not None:
        check_recipe(discriminator[0], {}, str(path))
        content["discriminator"] = {"definition": discriminator[0], "weights": _weights(discriminator[1])}
    save_plain(path, content)


def load_model(path: Path | str, device: str | torch.device = "cpu") -> LoadedModel:
    """Rebuild the network of a model.pt; the log says how good its training found it.

    Raises:
        MedsynthError: no such file, an incomplete model.pt, one that names foreign code, weights of another network, or
            no such device.
    """
    require_model(path)
    content = load_plain(path)
    if not _has(content, _PARTS):
        raise MedsynthError(f"{path} is not a model.pt of this version: use the run's model.pt, not its checkpoints")
    if content.get("format") != _FORMAT:
        newer = is_whole(content.get("format")) and content["format"] > _FORMAT
        raise MedsynthError(
            f"{path} was made by medsynth {content.get('version')}, whose models this version cannot read: "
            f"{'upgrade medsynth' if newer else 'train it again'}"
        )
    definition, discriminator = content["definition"], None
    check_recipe(definition, content["preprocessing"], str(path))
    where = f"{path}, made by medsynth {content.get('version')}"
    network = _with_weights(definition, content["weights"], device, where)
    if _has(content.get("discriminator"), {"definition": dict, "weights": dict}):
        check_recipe(content["discriminator"]["definition"], {}, str(path))
        discriminator = _with_weights(**content["discriminator"], device=device, where=where)
    if said := content["extra"].get("verdict"):
        log.info("%s: %s", path, said)
    return LoadedModel(
        network=network,
        preprocessing=content["preprocessing"],
        classes=content["classes"],
        definition=definition,
        digest=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        extra=content["extra"],
        discriminator=discriminator,
        discriminator_definition=None if discriminator is None else content["discriminator"]["definition"],
    )


def check_recipe(definition: dict[str, Any], preprocessing: dict[str, Any], where: str) -> None:
    """Refuse a definition of anything but networks of medsynth and MONAI, and what MONAI would evaluate in either.

    Args:
        where: what the message begins with.
    """
    for item in _items([definition, preprocessing]):
        if isinstance(item, str) and item.startswith(("$", "@", "%")):
            raise MedsynthError(f"{where}: '{item}' is an expression, and a model holds plain values only: refused")
    _network_class(definition, where)
    for item in _items(definition):
        if isinstance(item, dict) and "_target_" in item:
            _network_class(item, where)


def _items(value: Any) -> Iterator[Any]:
    """All that nested containers hold, keys included."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield item
            yield from _items(item)


def _network_class(definition: dict[str, Any], where: str) -> type[nn.Module]:
    target = definition.get("_target_")
    if not isinstance(target, str) or not target.startswith(_PACKAGES):
        raise MedsynthError(f"{where}: names {target!r}, and only networks of medsynth and MONAI may be built: refused")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MedsynthError(f"{where}: no network {target} in this version: upgrade medsynth or MONAI") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(_PACKAGES)):
        raise MedsynthError(f"{where}: {target} is not a network: refused")
    return found


def _has(content: Any, parts: dict[str, type]) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(name), kind) for name, kind in parts.items())


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}


def _with_weights(
    definition: dict[str, Any], weights: dict[str, Any], device: str | torch.device, where: str
) -> nn.Module:
    """The network on its device, in evaluation mode."""
    network = _build(definition, where)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise MedsynthError(
            f"{where}: its weights are of another network than its definition ({definition['_target_']}): "
            "export the model again, or train it again"
        ) from error
    try:
        return network.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise MedsynthError(f"device {device} cannot take the network ({reason}): try --device cpu") from error


def _build(value: Any, where: str) -> Any:
    """Replace definitions by networks, innermost first."""
    if isinstance(value, list):
        return [_build(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    arguments = {name: _build(item, where) for name, item in value.items() if name != "_target_"}
    if "_target_" not in value:
        return arguments
    try:
        return _network_class(value, where)(**arguments)
    except (TypeError, ValueError) as error:
        raise MedsynthError(
            f"{where}: {value['_target_']} cannot be built as it says ({error}): train it again"
        ) from error
