"""Fakes of earlier steps, which a discriminator must not forget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps up to `size` earlier fakes and hands out some of them in place of new ones.

    Args:
        size: images kept; 0 hands out new ones only.

    Reference: Shrivastava et al., arXiv:1612.07828, section 2.3; 50 images as in CycleGAN, arXiv:1703.10593.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, fakes: Tensor) -> Tensor:
        """(N, C, H, W) -> as many images: these while the pool fills, then each or an earlier one in its place.

        A coin tells which; an image whose place is taken enters the pool instead.
        """
        handed = []
        for fake in fakes.detach():
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                handed.append(fake)
            elif self.size and torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                handed.append(self.images[place])
                self.images[place] = fake.clone()
            else:
                handed.append(fake)
        return torch.stack(handed)

    def state_dict(self) -> dict[str, Any]:
        return {"images": [image.cpu() for image in self.images]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = list(state["images"])
