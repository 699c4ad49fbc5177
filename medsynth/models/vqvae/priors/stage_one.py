"""The trained stage one of a prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.models.vqvae.priors.base import CodePrior
from medsynth.run.recipe import load_model


@dataclass(frozen=True)
class StageOne:
    """A trained VQ-VAE.

    Attributes:
        network: the VQ-VAE.
        arguments: of its constructor.
        preprocessing: of its training images.
    """

    network: SliceVqVae
    arguments: dict[str, Any]
    preprocessing: Preprocessing

    def into(self, prior: CodePrior) -> nn.Module:
        """Give its weights to a prior that was built with its arguments; returns the prior."""
        prior.stage_one.load_state_dict(self.network.state_dict())
        return prior


def load_stage_one(path: str | None, num_codes: int | None = None, **preprocessing: Any) -> StageOne:
    """Open the model.pt of stage one.

    Args:
        path: of the file, or of a prior's, which holds its stage one.
        num_codes: that its codebook must have; None: any.
        preprocessing: what its training images must have been prepared with; None: anything.

    Raises:
        MedsynthError: no such file, another system's, or one that does not agree.
    """
    if path is None or not Path(path).is_file():
        found = "no checkpoint is given" if path is None else f"there is no {path}"
        raise MedsynthError(
            f"{found}: train stage one with bundles/vqvae/train.json, and give its model.pt as checkpoint"
        )
    model = load_model(path)
    if isinstance(model.network, CodePrior):
        model = replace(model, network=model.network.stage_one, definition=model.definition["stage_one"])
    if not isinstance(model.network, SliceVqVae):
        kind = type(model.network).__name__
        raise MedsynthError(f"{path} holds a {kind}: give the model.pt of a VQ-VAE (bundles/vqvae/train.json)")
    learned = model.preprocessing | {"num_codes": model.network.num_codes}
    for name, wanted in (preprocessing | {"num_codes": num_codes}).items():
        if wanted is not None and wanted != learned[name]:
            raise MedsynthError(
                f"{name} is {wanted}, and stage one ({path}) was trained with {learned[name]}: leave {name} out, or "
                f"train stage one with --{name} {wanted}"
            )
    arguments = {name: value for name, value in model.definition.items() if name != "_target_"}
    return StageOne(model.network, arguments, Preprocessing.from_dict(model.preprocessing))
