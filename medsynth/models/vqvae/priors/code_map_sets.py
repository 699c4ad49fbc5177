"""The code maps of a set of slices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.vqvae.code_usage import warn_of_collapse
from medsynth.models.vqvae.codebook import perplexity
from medsynth.models.vqvae.network import SliceVqVae

CHUNK = 64  # slices encoded at a time
SHOWN_FROM = 8  # chunks; fewer are encoded without a progress bar


class CodeMaps:
    """Code maps of slices, computed once and held in memory.

    Args:
        dataset: the slices.
        stage_one: encodes them.
        flip: include mirrored slices.
    """

    @torch.no_grad()
    def __init__(self, dataset: SliceDataset, stage_one: SliceVqVae, flip: bool = False) -> None:
        self.dataset, self.copies = dataset, 1 + flip
        indices = []
        for mirrored in range(self.copies):
            chunks = torch.arange(len(dataset)).split(CHUNK)
            for chunk in tqdm(chunks, desc="encoding", leave=False, disable=len(chunks) < SHOWN_FROM):
                images = dataset.read(chunk.numpy())[:, None].float().to(stage_one.codebook.codes.device)
                images = images.flip(-1) if mirrored else images
                indices.append(stage_one.encode_indices(images).to(torch.int32))
        self._indices = torch.cat(indices)
        used = torch.bincount(self._indices.flatten(), minlength=stage_one.num_codes)
        warn_of_collapse(perplexity(used), stage_one.num_codes)

    def conditions(self) -> tuple[Tensor, Tensor]:
        """Labels and positions (M,) of the slices."""
        facts = self.dataset.facts(np.arange(len(self.dataset)))
        return facts["label"], facts["position"]

    def of(self, index: Tensor) -> Tensor:
        """Code maps (N, h, w) of the slices `index` (N,), mirrored at random if included."""
        if self.copies > 1:
            index = index + len(self.dataset) * torch.randint(self.copies, index.shape, device=index.device)
        return self._indices[index].long()
