"""Inference with a trained VQ-VAE: code maps of images, images of code maps, and new images from a prior."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from monai.inferers import Inferer
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.inference import suitability
from medsynth.inference.generate import (
    Request,
    check_batch_size,
    check_request,
    refuse_unread,
    sampled,
    square,
    write_images,
)
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.reconstruct import reconstruct
from medsynth.models.vqvae.map_inference import bits_per_pixel, decode, encode, entropy_per_pixel
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.run.recipe import LoadedModel

MODES = {"generate": False, "reconstruct": True, "encode": True, "decode": True}
"""And whether they need an input."""

log = logging.getLogger(__name__)


def stage_one(model: LoadedModel) -> LoadedModel:
    """The model with the VQ-VAE in place of a prior that holds one."""
    return replace(model, network=getattr(model.network, "stage_one", model.network))


def is_prior(model: LoadedModel) -> bool:
    """Whether it can draw code maps."""
    return hasattr(model.network, "stage_one")


def suitable_inputs(
    inputs: Sequence[dict[str, Any]], model: LoadedModel, mode: str, force: bool
) -> list[dict[str, Any]]:
    """The inputs of the modality that the VQ-VAE learned, see `suitability.suitable`; code maps as they are."""
    return list(inputs) if mode == "decode" else suitability.suitable_inputs(inputs, model, force)


class CodeInferer(Inferer):
    """Encodes and decodes slices, and counts their codes.

    Attributes:
        usage: (num_codes,), how often each was chosen so far; None before the first slice.
    """

    def __init__(self) -> None:
        self.usage: Tensor | None = None

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any) -> Tensor:
        """(N, 1, H, W) -> reconstructions; further arguments are ignored."""
        indices = network.encode_indices(inputs)
        counts = indices.flatten().bincount(minlength=network.num_codes).cpu()
        self.usage = counts if self.usage is None else self.usage + counts
        return network.decode_indices(indices)


class VqVaeInference:
    """Writes what is asked for to a folder.

    Args:
        model: from `load_model`, a VQ-VAE or a prior that holds one.
        output: the folder.
        inferer: calls the VQ-VAE on a batch of slices.
        mode: `generate`: images from a prior; `reconstruct`: the inputs as their codes describe them; `encode`: their
            code maps; `decode`: images of code maps.
        request: what to generate.
        input: where the inputs of `run` are; None: there are none.
        batch_size: slices at a time.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        inferer: CodeInferer,
        mode: str,
        request: Request,
        input: str | None,
        batch_size: int,
    ) -> None:
        of = "VQ-VAE or of a prior over its codes"
        check_request(stage_one(model), SliceVqVae, of, mode, MODES, input is not None)
        check_batch_size(batch_size)
        if mode == "encode" and output.format == "png":
            raise MedsynthError("mode is encode and format is png, and code maps are NIfTI files: leave format out")
        refuse_unread(request, mode, () if mode == "generate" else ("label", "position"))
        self.model, self.output, self.inferer = model, output, inferer
        self.mode, self.request, self.batch_size = mode, request, batch_size

    def run(self, inputs: Sequence[dict[str, Any]] = ()) -> None:
        """Do it; `find_inputs` looks for the inputs once the constructor has checked the request."""
        if self.mode == "generate" and not is_prior(self.model):
            raise MedsynthError(
                "the checkpoint is of stage one, which cannot draw code maps: train a prior "
                "(bundles/vqvae/train_prior.json) and give its model.pt, or choose --mode reconstruct, encode or decode"
            )
        if self.mode == "generate":
            count, condition = self.request.num_images, self.request.condition(self.model)
            drawn = sampled(self.model.network.sample, self.request, condition)
            write_images(drawn, count, self.request, self.model, self.output, square(count))
            return
        model = stage_one(self.model)
        if self.mode == "decode":
            decode(inputs, model, self.output, self.batch_size)
            return
        if self.mode == "encode":
            usage = encode(inputs, model, self.output, self.batch_size)
        else:
            reconstruct(inputs, model, self.inferer, self.output, self.batch_size)
            usage = self.inferer.usage
        log.info(
            "%.3f bits a pixel: %d codes, one for %d x %d pixels; %.3f with an entropy code",
            bits_per_pixel(model.network),
            model.network.num_codes,
            *(model.network.stride,) * 2,
            entropy_per_pixel(model.network, usage),
        )


def generator_of(model: LoadedModel, output: ImageFolder, request: Request) -> VqVaeInference | None:
    """Draws images from a prior; None for a model of stage one."""
    return VqVaeInference(model, output, CodeInferer(), "generate", request, None, 1) if is_prior(model) else None
