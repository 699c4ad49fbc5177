"""Whitened principal components of images and their inverse: a linear latent space that needs no training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_COMPONENT = 1e-3  # of the largest; whitening a smaller one would blow up its rounding errors


def principal_components(rows: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """The leading components of (M, values) rows.

    Returns: their directions (values, K) and the standard deviation along each (K,); K is `features`, or fewer where
    the rows don't differ in more.
    """
    _, singular, axes = torch.pca_lowrank(rows, q=min(features + 16, *rows.shape), center=True, niter=4)
    used = int((singular[:features] > SMALLEST_COMPONENT * singular[0]).sum())
    return axes[:, :used], singular[:used] / len(rows) ** 0.5


class PrincipalComponents(nn.Module):
    """Images to vectors of uncorrelated coordinates of variance 1, and back to images.

    Args:
        side: pixels per side that images of one channel are averaged to.
        features: number of components; those beyond the rank of the images stay 0.

    Attributes:
        scale: (features,), the standard deviation of the images along each component.
    """

    def __init__(self, side: int, features: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.zeros(side**2))
        self.register_buffer("axes", torch.zeros(side**2, features))
        self.register_buffer("scale", torch.zeros(features))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the components of images (M, 1, H, W)."""
        rows = self._rows(images)
        axes, scale = principal_components(rows, len(self.scale))
        self.mean.copy_(rows.mean(dim=0))
        self.axes.zero_()
        self.scale.zero_()
        self.axes[:, : len(scale)] = axes
        self.scale[: len(scale)] = scale

    def scores(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, features), whitened; 0 where a component is not used."""
        scores = (self._rows(images) - self.mean) @ self.axes
        return torch.where(self.scale > 0, scores / self.scale.clamp_min(1e-12), scores.new_zeros(()))

    def images(self, scores: Tensor) -> Tensor:
        """(N, features) -> (N, 1, side, side)."""
        return (self.mean + (scores.float() * self.scale) @ self.axes.T).unflatten(1, (1, self.side, self.side))

    def missed(self, images: Tensor, scores: Tensor) -> Tensor:
        """Squared error of images (N, 1, H, W) with respect to scores (N, features), as a share of the variance."""
        return ((self.scores(images) - scores) * self.scale).square().sum(dim=1).mean() / self.scale.square().sum()

    def _rows(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.float(), self.side).flatten(1)
