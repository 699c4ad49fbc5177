"""Code maps as NIfTI files that lie over their volumes, and back to images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.generate import slice_space
from medsynth.inference.image_folder import ImageFolder, read_sidecar
from medsynth.inference.reconstruct import Stack, stack_reader
from medsynth.inference.route import Input, Made, Route, one_below_the_other, some_slices
from medsynth.models.vqvae.codebook import code_colours, perplexity
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.nn.resampling import repeat
from medsynth.run.recipe import LoadedModel

MOST_CODES = np.iinfo(np.uint16).max  # in a map; the value after the last code marks slices that were left out


@torch.inference_mode()
def encode(inputs: Sequence[dict[str, Any]], model: LoadedModel, output: ImageFolder, batch_size: int) -> Tensor:
    """Write the code map of each input; see `Route.run`.

    A map's voxels are `stride` times as wide as the slices' pixels, so that it lies over the input. Its sidecar has
    what `decode` needs for the input's units.

    Args:
        inputs: from `find_inputs`.
        batch_size: slices at a time.

    Returns: (num_codes,), how often each code was chosen.
    """
    network: SliceVqVae = model.network
    if network.num_codes > MOST_CODES:
        raise MedsynthError(
            f"{network.num_codes} codes don't fit into a file of 16-bit numbers: use {MOST_CODES} at most"
        )
    device, coarser = network.codebook.codes.device, _coarser(network.stride)
    colours, total = code_colours(network.codebook).cpu(), torch.zeros(network.num_codes)

    def make(batch: Sequence[Input]) -> Iterator[Made]:
        for index, entry, source, stack in batch:
            parts = stack.slices.split(batch_size)
            indices = torch.cat([network.encode_indices(part.to(device)).cpu() for part in parts])
            usage = indices.flatten().bincount(minlength=network.num_codes)
            total.add_(usage)
            facts = {"Label": entry["label"], "Split": entry.get("split"), "Index": index, "Slices": len(indices)}
            facts |= {"Bits_per_pixel": round(bits_per_pixel(network), 4)}
            facts |= {"Entropy_per_pixel": round(entropy_per_pixel(network, usage), 4)}
            sidecar = {"Codes": network.num_codes, "Stride": network.stride, "CodebookDigest": codebook_digest(network)}
            sidecar |= {"Units": "index of a code; one beyond the last: slice left out"}
            sidecar |= {"InputDigest": sources.digest(source)}
            if stack.space.bounds is not None:
                sidecar["IntensityBounds"] = list(stack.space.bounds)
            some = some_slices(len(indices), len(inputs))
            maps = repeat(colours[indices[some]].movedim(-1, 1), network.stride)
            shown = list(zip(stack.slices[some].expand(-1, 3, -1, -1), maps, strict=True))
            volume = stack.filled(indices.numpy().astype(np.uint16), network.num_codes)
            yield Made(volume, stack.affine @ coarser, facts, sidecar, shown)

    Route("encode", stack_reader(model), make, "inputs are encoded", one_below_the_other).run(inputs, output)
    return total


@torch.inference_mode()
def decode(inputs: Sequence[dict[str, Any]], model: LoadedModel, output: ImageFolder, batch_size: int) -> None:
    """Write the image of each code map; see `Route.run`.

    Args:
        inputs: from `find_inputs`.
        batch_size: slices at a time.

    Raises:
        MedsynthError: a map that is not of this model's codes; nothing is written then.
    """
    network: SliceVqVae = model.network
    device, finer = network.codebook.codes.device, np.linalg.inv(_coarser(network.stride))
    read = partial(read_code_map, network=network, space=slice_space(model))

    def make(batch: Sequence[Input]) -> Iterator[Made]:
        for index, _, source, (indices, stack) in batch:
            images = torch.cat([network.decode_indices(part.to(device)).cpu() for part in indices.split(batch_size)])
            facts = {"Index": index, "Slices": len(images)}
            sidecar = {"Units": stack.space.units, "InputDigest": sources.digest(source)}
            shown = [(image,) for image in images[some_slices(len(images), len(inputs))]]
            yield Made(stack.volume(images), stack.affine @ finer, facts, sidecar, shown)

    for entry in inputs:
        read(Source.of(entry))
    Route("decode", read, make, "code maps are decoded", one_below_the_other).run(inputs, output)


def read_code_map(source: Source, network: SliceVqVae, space: SliceSpace) -> tuple[Tensor, Stack]:
    """Indices (N, h, w) of a file, with the numbers of their slices, the map's affine and the image's units.

    Raises:
        MedsynthError: the file is no code map, or not one of this network.
    """
    path, sidecar = source.path, read_sidecar(source.path)
    for name, own in (("Codes", network.num_codes), ("CodebookDigest", codebook_digest(network))):
        if name in sidecar and sidecar[name] != own:
            raise MedsynthError(
                f"{path} was encoded with another codebook ({name} {sidecar[name]}, and the checkpoint's is {own}): "
                "give the model.pt that it was encoded with"
            )
    try:
        image = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # on damaged bytes, the libraries raise whatever comes
        raise MedsynthError(f"{path} cannot be read as a NIfTI file of code indices: {error}") from error
    values = values[..., None] if values.ndim == 2 else values
    _check_indices(path, values, network)
    slices = np.flatnonzero((values != network.num_codes).any(axis=(0, 1)))
    indices = torch.from_numpy(np.moveaxis(values[..., slices], -1, 0).astype(np.int64))
    if bounds := sidecar.get("IntensityBounds"):
        space = replace(space, bounds=(float(bounds[0]), float(bounds[1])))
    return indices, Stack(torch.empty(0), slices, torch.empty(0), image.affine, space)


def _check_indices(path: str, values: np.ndarray, network: SliceVqVae) -> None:
    side = network.image_size // network.stride
    if values.ndim != 3 or values.shape[:2] != (side, side):
        raise MedsynthError(
            f"{path} is {' x '.join(map(str, values.shape))}, and code maps of this model are {side} x {side} a slice "
            f"(image_size {network.image_size}): give maps that it encoded, or the model.pt that these are of"
        )
    if not np.issubdtype(values.dtype, np.number) or (values != np.round(values)).any():
        raise MedsynthError(
            f"{path} holds values that are not whole: give a map of code indices, as --mode encode does"
        )
    used = values[..., (values != network.num_codes).any(axis=(0, 1))]
    if not used.size or used.min() < 0 or used.max() >= network.num_codes:
        found = f"indices from {used.min():g} to {used.max():g}" if used.size else "no index"
        raise MedsynthError(
            f"{path} holds {found}, and this model's {network.num_codes} codes are 0 to {network.num_codes - 1}: give "
            "the model.pt that it was encoded with"
        )


def bits_per_pixel(network: SliceVqVae) -> float:
    """Bits per pixel of a code map whose indices all have the same number of bits."""
    return math.log2(network.num_codes) / network.stride**2


def entropy_per_pixel(network: SliceVqVae, usage: Tensor) -> float:
    """Bits per pixel of a code map with an entropy code: the entropy of `usage`."""
    return math.log2(perplexity(usage)) / network.stride**2


def codebook_digest(network: SliceVqVae) -> str:
    """SHA-256 of the codes: equal for a stage-one model and for a prior that holds it."""
    return hashlib.sha256(network.codebook.codes.cpu().numpy().tobytes()).hexdigest()


def _coarser(stride: int) -> np.ndarray:
    """Voxel indices (row, column, slice) of a code map -> those of its slices, at the middle of each code's pixels."""
    middle = (stride - 1) / 2
    return nib.affines.from_matvec(np.diag([stride, stride, 1.0]), [middle, middle, 0])
