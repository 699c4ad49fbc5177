"""What a bundle's configuration gives to a network, the network's constructor does not state as well."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate

import pytest

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = sorted(BUNDLES.glob("*/train*.json"))
SHARED = {"norm"}  # of the patch discriminator, which only the translation states
LATER = {"contrasts", "fill", "segmentation_classes"}  # which the model.pt of earlier trainings do not state


def definitions(config: Path) -> Iterator[dict]:
    """Of the networks that a configuration trains."""
    content = json.loads(config.read_text())
    for name in ("network_def", "discriminator_def"):
        if "_target_" in content.get(name, {}):
            yield content[name]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_constructor_has_no_default_for_what_the_configuration_gives(config):
    for definition in definitions(config):
        parameters = inspect.signature(locate(definition["_target_"])).parameters
        given = definition.keys() - {"_target_"} - SHARED - LATER
        assert {name for name in given if parameters[name].default is not inspect.Parameter.empty} == set()
