"""Base of the priors over the code maps of a VQ-VAE, which hold the frozen stage one.

Reference: van den Oord et al., VQ-VAE, arXiv:1711.00937, section 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medsynth.models.vqvae.network import SliceVqVae

TOGETHER = 64  # maps decoded or drawn at a time


def freeze(network: nn.Module) -> nn.Module:
    """Turn parameters into buffers of the same names, so that no optimizer and no moving average changes them."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach().clone())
    return network.eval()


class CodePrior(nn.Module):
    """Draws code maps, which its frozen stage one decodes to images.

    Args:
        stage_one: arguments of its `SliceVqVae`; the weights come with `load_state_dict`.
    """

    def __init__(self, stage_one: dict[str, Any]) -> None:
        super().__init__()
        self.stage_one = freeze(SliceVqVae(**stage_one))
        self.grid = self.stage_one.image_size // self.stage_one.stride

    def train(self, mode: bool = True) -> CodePrior:
        """Stage one stays in evaluation mode."""
        super().train(mode)
        self.stage_one.eval()
        return self

    def forward(self, images: Tensor, *conditions: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> reconstructions from their codes; no condition makes a difference to them."""
        return self.stage_one(images)

    def draw(self, count: int, label: int | None, position: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Code maps (count, h, w), their labels and positions, by torch's own random state."""
        raise NotImplementedError

    @torch.no_grad()
    def sample_codes(
        self, count: int, seed: int, label: int | None = None, position: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new code maps.

        Args:
            count: how many.
            seed: the same one gives the same maps on the same kind of device.
            label: class index; None: classes as frequent as in the training set.
            position: slice position in [0, 1]; None: positions as in the training set.

        Returns: indices (count, h, w), labels (count,), -1 if unknown, positions (count,), or NaN.
        """
        device = self.stage_one.codebook.codes.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.draw(count, label, position)

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Code maps (N, h, w) -> images (N, 1, H, W) in [-1, 1]."""
        return torch.cat([self.stage_one.decode_indices(part) for part in indices.split(TOGETHER)])

    def sample(
        self, count: int, seed: int, label: int | None = None, position: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new images (count, 1, H, W) in [-1, 1], with labels and positions, as `sample_codes` takes them."""
        indices, labels, positions = self.sample_codes(count, seed, label, position)
        return self.decode(indices), labels, positions
