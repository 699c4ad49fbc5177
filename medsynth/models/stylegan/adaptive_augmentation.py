"""Adaptive discriminator augmentation: the more the discriminator overfits, the more its images are augmented."""

from __future__ import annotations

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError

AIR = -1.0
SHIFT = 0.125  # of the side, at most
TURN = 10.0  # degrees, at most
ZOOM = 0.1  # standard deviation of the logarithm of the size
BRIGHTNESS, CONTRAST, NOISE = 0.1, 0.2, 0.05  # standard deviations; contrast of a logarithm
CUTOUT = 0.5  # of the side
HIGHEST = 0.8  # probability; above it the generator would learn the changes too


class AdaptiveAugmentation(nn.Module):
    """Applies each augmentation with one probability, which follows the discriminator's overfitting.

    When a discriminator memorizes its training images, the mean sign of its scores of real images goes to 1. The
    probability rises while that is above a target, and falls below it. Real and fake images are augmented in the same
    way, and gradients pass through, so that the generator does not learn the augmentations.

    They are mirroring left to right, shifts by whole pixels, small rotations and zooms, brightness, contrast, noise,
    and cutout of a square.

    Args:
        target: mean sign above which augmentation increases; 0 or None: no augmentation.
        kimg: thousands of images in which the probability can go from 0 to 1.
        interval: steps between two changes of the probability.

    Reference: Karras et al., arXiv:2006.06676, sections 2 and 3.
    """

    def __init__(self, target: float | None, kimg: float, interval: int = 4) -> None:
        super().__init__()
        if target is not None and not 0 <= target < 1:
            raise MedsynthError(f"augmentation target is {target!r}: give null for none, or a number from 0 to 1")
        self.target, self.kimg, self.interval = target, kimg, interval
        self.register_buffer("probability", torch.tensor(0.0))
        self.register_buffer("signs", torch.zeros(3))  # sum over real images, their number, steps

    @torch.no_grad()
    def follow(self, real_scores: Tensor) -> None:
        """Take in the scores (N,) of real images of a step, and change the probability every few steps."""
        if self.target is None:
            return
        signs = real_scores.detach().sign().float()
        self.signs += torch.stack([signs.sum(), signs.new_tensor(len(signs)), signs.new_tensor(1.0)])
        if self.signs[2] < self.interval:
            return
        total, count = idist.all_reduce(self.signs[:2].clone())
        change = torch.sign(total / count - self.target) * count / (1000 * self.kimg)
        self.probability.add_(change).clamp_(0, HIGHEST)
        self.signs.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> the same shape, changed."""
        if self.probability == 0:
            return images
        return self._cut_out(self._recolour(self._move(images)))

    def _chosen(self, like: Tensor, share: float = 1.0) -> Tensor:
        """(N,): 1 for the images that are changed, else 0."""
        return (torch.rand(len(like), device=like.device) < share * self.probability).to(like.dtype)

    def _move(self, images: Tensor) -> Tensor:
        """Mirror, shift by whole pixels, rotate and zoom."""
        count, side, device = len(images), images.shape[-1], images.device
        mirror = 1 - 2 * self._chosen(images, 0.5)
        angle = torch.deg2rad(TURN * _uniform(count, device)) * self._chosen(images)
        size = torch.exp(ZOOM * torch.randn(count, device=device) * self._chosen(images))
        pixels = torch.round(SHIFT * side * torch.stack([_uniform(count, device), _uniform(count, device)], dim=1))
        shift = 2 * pixels / side * self._chosen(images)[:, None]
        rows = [
            torch.stack([mirror * size * angle.cos(), -size * angle.sin(), shift[:, 0]], dim=1),
            torch.stack([mirror * size * angle.sin(), size * angle.cos(), shift[:, 1]], dim=1),
        ]
        grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
        return F.grid_sample(images - AIR, grid, align_corners=False) + AIR

    def _recolour(self, images: Tensor) -> Tensor:
        """Change brightness and contrast, and add noise."""
        random = torch.randn(3, len(images), device=images.device)
        contrast = torch.exp(CONTRAST * random[0] * self._chosen(images))
        brightness = BRIGHTNESS * random[1] * self._chosen(images)
        noise = NOISE * random[2].abs() * self._chosen(images)
        contrast, brightness, noise = (values[:, None, None, None] for values in (contrast, brightness, noise))
        return (images - AIR) * contrast + AIR + brightness + noise * torch.randn_like(images)

    def _cut_out(self, images: Tensor) -> Tensor:
        """Black out a square."""
        count, side, device = len(images), images.shape[-1], images.device
        pixel = torch.arange(side, device=device)
        centre = torch.rand(2, count, 1, device=device) * side
        row, column = (pixel - centre).abs() < CUTOUT * side / 2
        square = row[:, None, :, None] & column[:, None, None, :] & (self._chosen(images)[:, None, None, None] > 0)
        return torch.where(square, AIR, images)


def _uniform(count: int, device: torch.device) -> Tensor:
    """(count,) random numbers from -1 to 1."""
    return 2 * torch.rand(count, device=device) - 1
