"""Projection: the styles with which a StyleGAN draws a given image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from medsynth.errors import MedsynthError, check_whole
from medsynth.losses.similarity import clamped
from medsynth.models.stylegan.network import StyleGan

SPACES = ("w", "w+")
SAMPLES = 256  # of which the mean and the spread of W are taken
LEAK = 0.05  # weight of what exceeds [-1, 1]
RISE, FALL = 0.05, 0.25  # shares of the steps in which the learning rate rises and falls
HEAD_START = 0.01  # share of the steps, so that the first rate is not 0
SCALES = 4  # at which image and target are compared, each half as fine as the one before


class Projection:
    """Finds styles by gradient descent from the mean style of the image's class and position, and draws their images.

    The error is the mean squared difference of pixels at several scales, so no pretrained network is needed. Noise is
    left out.

    Attributes:
        found: styles of all images so far, (N, features) in W or (N, layers, features) in W+.

    Args:
        steps: of Adam.
        space: `w`, one style for all layers; or `w+`, one per layer, which is closer to the image and farther from what
            the network was trained to draw.
        learning_rate: in standard deviations of W.

    Reference: Karras et al., StyleGAN2, arXiv:1912.04958, appendix D; Abdal et al., W+, arXiv:1904.03189.
    """

    def __init__(self, steps: int, space: str, learning_rate: float) -> None:
        check_whole("steps", steps, 1, "1 or more steps of the projection, such as 300")
        if space not in SPACES:
            raise MedsynthError(f"space is {space!r}: choose one of {', '.join(SPACES)}")
        self.steps, self.space, self.learning_rate = steps, space, learning_rate
        self._found: list[Tensor] = []

    @property
    def found(self) -> Tensor:
        return torch.cat(self._found)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(self, images: Tensor, network: StyleGan, labels: Tensor, positions: Tensor) -> Tensor:
        """Images (N, 1, H, W) in [-1, 1] -> the nearest ones that the network draws, in the same form.

        Args:
            labels, positions: (N,), -1 and NaN where unknown, of the styles at the start.
        """
        start, extent = _start(network, labels, positions)
        if self.space == "w+":
            start = network.spread(start)
        moved = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([moved], betas=(0.9, 0.999))
        for step in trange(self.steps, desc="projecting", leave=False):
            optimizer.param_groups[0]["lr"] = self.learning_rate * _rate(step / self.steps)
            (moved.grad,) = torch.autograd.grad(_error(self._draw(network, start + extent * moved), images), [moved])
            optimizer.step()
        styles = (start + extent * moved).detach()
        self._found.append(styles.cpu())
        with torch.no_grad():
            return self._draw(network, styles).clamp(-1, 1)

    def _draw(self, network: StyleGan, styles: Tensor) -> Tensor:
        return network.synthesis(styles if self.space == "w+" else network.spread(styles), noise="none")


@torch.no_grad()
def _start(network: StyleGan, labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The mean style of each image's class and position (N, features), and how far all styles spread (features,)."""
    random = torch.Generator().manual_seed(0)
    means = [
        network.draw(
            SAMPLES, None if label < 0 else label, None if math.isnan(position) else position, generator=random
        )[0].mean(dim=0)
        for label, position in zip(labels.tolist(), positions.tolist(), strict=True)
    ]
    return torch.stack(means), network.draw(SAMPLES, generator=random)[0].std(dim=0)


def _error(drawn: Tensor, images: Tensor) -> Tensor:
    """Sum over images of their mean squared differences at `SCALES` scales.

    Values beyond [-1, 1] are as good as black or white, so the excess counts little.
    """
    difference, total = clamped(drawn, LEAK) - images, 0.0
    for _ in range(SCALES):
        total = total + difference.square().mean(dim=(1, 2, 3)).sum()
        difference = F.avg_pool2d(difference, 2)
    return total


def _rate(share: float) -> float:
    """Share of the learning rate: it rises at the beginning and falls along a cosine at the end."""
    fall = min(1.0, (1 - share) / FALL)
    return min(1.0, (share + HEAD_START) / RISE) * (0.5 - 0.5 * math.cos(math.pi * fall))
