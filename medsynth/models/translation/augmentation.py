"""Random augmentation of a batch on its device, the same for all images of one slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.errors import MedsynthError
from medsynth.models.translation.network import present

DROPPED = 0.05  # probability with which a contrast is left out of a slice


@dataclass(frozen=True)
class Augmentation:
    """Flips, small affine transforms and changes of contrast.

    Args:
        flip: mirror left and right, each image with probability 1/2.
        rotation_degrees: largest rotation in the plane.
        scaling: largest change of size, as a share of it.
        shift: largest shift along each axis, as a share of the side.
        contrast: largest change of the logarithm of a gamma exponent.
        doubled: keep each image next to its changed copy, which doubles the batch.
    """

    flip: bool = True
    rotation_degrees: float = 0.0
    scaling: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    doubled: bool = False

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "scaling", "shift", "contrast"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < (180 if name == "rotation_degrees" else 1):
                raise MedsynthError(f"augmentation#{name} is {value!r}: give 0 for none, or a small positive number")

    def __call__(self, views: Sequence[Tensor], calibrated: Sequence[bool], together: bool = False) -> list[Tensor]:
        """Change all views of a slice in the same way.

        Args:
            views: (N, C, H, W) each, in [-1, 1], over one field of view, on whatever grids.
            calibrated: of each view, whether its values have a unit (such as Hounsfield units), so that contrast stays.
            together: change all N images in the same way.
        """
        count, device = len(views[0]), views[0].device
        drawn = 1 if together else count
        gamma = torch.exp(self.contrast * uniform(drawn, device))[:, None, None, None]
        affine = self.affine(drawn, device).expand(count, -1, -1)
        changed = []
        for view, keeps_contrast in zip(views, calibrated, strict=True):
            if self.moves:
                grid = F.affine_grid(affine, list(view.shape), align_corners=False)
                view_changed = F.grid_sample(view, grid, padding_mode="border", align_corners=False)
            else:
                view_changed = torch.where((affine[:, 0, 0] < 0)[:, None, None, None], view.flip(-1), view)
            if self.contrast and not keeps_contrast:
                view_changed = 2 * ((view_changed + 1) / 2).clamp(0, 1) ** gamma - 1
            changed.append(torch.cat([view, view_changed]) if self.doubled else view_changed)
        return changed

    @property
    def moves(self) -> bool:
        """Whether images have to be resampled."""
        return max(self.rotation_degrees, self.scaling, self.shift) > 0

    def affine(self, count: int, device: torch.device) -> Tensor:
        """(count, 2, 3) random transforms, of x and y from -1 to 1."""
        angle = torch.deg2rad(self.rotation_degrees * uniform(count, device))
        scale = 1 + self.scaling * uniform(count, device)
        mirror = 1.0 - 2.0 * (torch.rand(count, device=device) < 0.5) * self.flip
        rows = [
            torch.stack([mirror * scale * angle.cos(), -scale * angle.sin()], dim=1),
            torch.stack([mirror * scale * angle.sin(), scale * angle.cos()], dim=1),
        ]
        move = 2 * self.shift * torch.stack([uniform(count, device), uniform(count, device)], dim=1)
        return torch.cat([torch.stack(rows, dim=1), move[..., None]], dim=2)


def drop_contrasts(source: Tensor, contrasts: int) -> Tensor:
    """Leave out contrasts at random, so that a network learns to do without; one that is there always stays.

    Args:
        source: (N, contrasts * C, H, W) in [-1, 1]; contrasts that are left out become -1.
    """
    there = present(source, contrasts)
    drawn = torch.where(there, torch.rand(there.shape, device=source.device), -1)
    kept = (drawn >= DROPPED) | (drawn == drawn.amax(dim=1, keepdim=True))
    return source.masked_fill(~kept.repeat_interleave(source.shape[1] // contrasts, dim=1)[:, :, None, None], -1)


def uniform(count: int, device: torch.device) -> Tensor:
    """(count,) random numbers from -1 to 1."""
    return 2 * torch.rand(count, device=device) - 1
