"""The gain of a super-resolution network over interpolation, measured during training."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.evaluation.metrics.paired.structural import ssim
from medsynth.losses.similarity import foreground
from medsynth.models.superres.network import RRDBNet

RANGE = 2.0  # of intensities in [-1, 1]


class UpscalingQuality(Metric):
    """The gain of a network's images over interpolation, in dB of PSNR inside the patient: higher is better.

    The metrics also get the PSNR itself, and the SSIM of both inside the patient. Squared errors are averaged
    over the pixels of all slices, SSIM over slices.

    Args:
        network: with the interpolation to compare with.
    """

    def __init__(self, network: RRDBNet) -> None:
        self.network = network
        super().__init__(from_engine([Keys.IMAGE, Keys.PRED, Keys.LABEL]))

    def reset(self) -> None:
        """Forget all images."""
        self._squares, self._voxels, self._ssim = torch.zeros(2, dtype=torch.float64), 0.0, []

    def update(self, output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Compare a batch."""
        coarse, fine, truth = output
        inside = foreground(truth) > 0
        both = torch.stack([fine.float(), self.network.interpolation(coarse)])
        errors = torch.where(inside, both - truth, 0).double().square()
        self._squares += errors.flatten(1).sum(1).cpu()
        self._voxels += float(inside.sum())
        arrays = [images[:, 0].cpu().numpy() for images in (*(both + 1), truth + 1, inside)]
        for *images, true, mask in zip(*arrays, strict=True):
            if mask.any():
                self._ssim.append([ssim(image, true, mask, RANGE) for image in images])

    def compute(self) -> dict[str, float]:
        """All measures by name."""
        network, base = (10 * math.log10(RANGE**2 * self._voxels / float(square)) for square in self._squares)
        ssim, base_ssim = torch.tensor(self._ssim).mean(0).tolist()
        return {"gain_db": network - base, "psnr_db": network, "ssim": ssim, "interpolation_ssim": base_ssim}

    def completed(self, engine: Engine, name: Any) -> None:
        """Put every measure under its own name, the first one under `name` as well."""
        measures = self.compute()
        engine.state.metrics |= measures | {str(name): measures["gain_db"]}
