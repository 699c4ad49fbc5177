"""What a VQ-VAE is compared with: averages over the pixels of each code, interpolated."""

from __future__ import annotations

from torch import Tensor

from medsynth.evaluation.metrics.image import psnr
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.nn.resampling import average, spline
from medsynth.training.sample_quality import ReconstructionQuality


def averages(images: Tensor, stride: int) -> Tensor:
    """(N, 1, H, W) in [-1, 1] -> reconstructions from one number for each square of `stride` pixels a side."""
    return spline(average(images, stride), stride).clamp(-1, 1)


class AveragesPsnr(ReconstructionQuality):
    """Mean PSNR of averages over each code's pixels, in dB; a VQ-VAE that has learned something is above it.

    Args:
        network: whose stride is that of the averages.
    """

    def __init__(self, network: SliceVqVae) -> None:
        super().__init__(psnr)
        self.stride = network.stride

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Measure the averages of a batch of labels."""
        _, images = output
        super().update((averages(images.float(), self.stride), images))
