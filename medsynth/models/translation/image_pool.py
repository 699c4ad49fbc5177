"""A pool of fakes of earlier steps for the discriminator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Stores up to `size` earlier fakes and returns some of them in place of new ones.

    Args:
        size: number of stored images; 0 returns new ones only.

    Reference: Shrivastava et al., arXiv:1612.07828, section 2.3; 50 images as in CycleGAN, arXiv:1703.10593.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, fakes: Tensor) -> Tensor:
        """(N, C, H, W) -> as many images: these while the pool fills, then each with probability 1/2 or an earlier one.

        An image that is replaced by an earlier one takes its place in the pool.
        """
        handed = []
        for fake in fakes.detach():
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                handed.append(fake)
            elif self.size and torch.rand(()) < 0.5:
                index = int(torch.randint(self.size, ()))
                handed.append(self.images[index])
                self.images[index] = fake.clone()
            else:
                handed.append(fake)
        return torch.stack(handed)

    def state_dict(self) -> dict[str, Any]:
        return {"images": [image.cpu() for image in self.images]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = list(state["images"])
