"""A set of slices as the frozen stage one sees it."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from medsynth.data.slices import SliceDataset
from medsynth.networks.code_prior import CodePrior
from medsynth.networks.codebook import perplexity

CHUNK = 64  # slices encoded at a time
COLLAPSED = 1 / 8  # of the codebook: a perplexity below says that stage one has not learned to use it

log = logging.getLogger(__name__)


class CodeMaps:
    """Code maps of slices, and what else a prior wants to know of each, made once and kept in memory.

    Args:
        dataset: the slices.
        network: holds stage one.
        flip: keep mirrored slices as well.

    Attributes:
        indices: (M, h, w), or (2 M, h, w) with the mirrored ones behind.
    """

    @torch.no_grad()
    def __init__(self, dataset: SliceDataset, network: CodePrior, flip: bool = False) -> None:
        device = network.stage_one.codebook.codes.device
        self.dataset, indices, latents = dataset, [], []
        for mirrored in (False, True)[: 1 + flip]:
            for chunk in torch.arange(len(dataset)).split(CHUNK):
                images = dataset.read(chunk.numpy())[:, None].float().to(device)
                images = images.flip(-1) if mirrored else images
                indices.append(network.stage_one.encode_indices(images).to(torch.int32))
                latents.append(network.describe(images))
        self.indices, self.latents = torch.cat(indices), torch.cat(latents)
        warn_if_collapsed(self.indices, network.stage_one.num_codes)

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Code maps (N, h, w) and latent vectors of the slices `index` (N,), half of them mirrored if those are kept."""
        copies = len(self.indices) // len(self.dataset)
        if copies > 1:
            index = index + len(self.dataset) * torch.randint(copies, index.shape, device=index.device)
        return self.indices[index].long(), self.latents[index]

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latent vectors, code maps, labels and positions of all."""
        facts = self.dataset.facts(np.arange(len(self.dataset)))
        copies = len(self.indices) // len(self.dataset)
        return self.latents, self.indices, facts["label"].repeat(copies), facts["position"].repeat(copies)


def warn_if_collapsed(indices: Tensor, num_codes: int) -> None:
    """Say so if stage one uses so few codes that no prior can make good images of them."""
    used = perplexity(torch.bincount(indices.flatten().cpu(), minlength=num_codes))
    if used < COLLAPSED * num_codes:
        log.warning(
            "the codebook has collapsed: the training slices use its %d codes as unevenly as %.1f would be used evenly: "
            "train stage one longer, or with fewer or shorter codes (num_codes, code_features)",
            num_codes,
            used,
        )
