"""The latent vectors that a VAE-GAN gives to images."""

from __future__ import annotations

import numpy as np
import torch

from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.run.recipe import LoadedModel

BATCH = 64


class VaeGanLatents:
    """z of a VAE-GAN: the mean that its encoder gives to an image, which is told neither class nor position."""

    name = "z"

    def __init__(self, model: LoadedModel) -> None:
        self.network = model.network

    @torch.inference_mode()
    def __call__(self, images: ImageSet) -> np.ndarray:
        """(N, H, W) in [0, 1] -> (N, features)."""
        device = next(self.network.parameters()).device
        scaled = torch.from_numpy(images.images)[:, None] * 2 - 1
        return torch.cat(
            [self.network.latents(part.to(device)).flatten(1).cpu() for part in scaled.split(BATCH)]
        ).numpy()
