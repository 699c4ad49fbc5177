"""The loss of the flows over volumes on held-out ones, which chooses the model."""

from __future__ import annotations

import torch
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, plain, plain_segmentation
from medsynth.models.flow.learning import flow_loss
from medsynth.models.flow.quality import TIMES, HeldOutFlowLoss
from medsynth.models.volumes.network import VolumeFlow
from medsynth.nn.precision import autocast

STEPS = 256  # of times, over which a loss is averaged


class HeldOutVolumeLoss(HeldOutFlowLoss):
    """Mean `flow_loss` over the levels of a validation's volumes, whole ones, as `HeldOutFlowLoss`.

    Each is divided by `untaught_loss`: 1 is a generator that knows no more than how strong each band is.

    Args:
        network: the moving average.
        preprocessing: of the volumes.
        seed: of times and noise.
    """

    def __init__(self, network: VolumeFlow, preprocessing: VolumePreprocessing, seed: int = 0) -> None:
        self.network, self.preprocessing = network, preprocessing
        super().__init__(network, lambda images: images, seed)

    @torch.no_grad()
    def losses(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """(N,) at each of several times, on the CPU."""
        device = self.network.levels[0].mean.device
        images, *facts = (batch[name].to(device) for name in ("image", "label", "position", "covariates"))
        grid = self.preprocessing.size, self.preprocessing.finer
        maps = plain_segmentation(batch["segmentation"].to(device), *grid) if "segmentation" in batch else None
        found, untaught = [], [untaught_loss(strength) for strength in self.network.strengths()]
        pyramid = self.network.pyramid(plain(images, *grid), maps)
        for index in range(TIMES):
            of_levels = []
            for level, worst, (latents, beside) in zip(self.network.levels, untaught, pyramid, strict=True):
                latents = level.normalize(latents)
                uniform = (torch.rand(len(images), generator=self._random) + index) / TIMES
                noise = torch.randn(latents.shape, generator=self._random)
                with autocast(device):
                    drawn = (part.to(device) for part in (uniform, noise))
                    condition = level.embed(*facts, latents)
                    of_levels.append(flow_loss(level, latents, condition, None, *drawn, given=beside).cpu() / worst)
            found.append(torch.stack(of_levels).mean(dim=0))
        return found


def untaught_loss(strength: Tensor) -> float:
    """Mean `flow_loss` of the best flow that takes every number of a band for normal, of mean 0 and deviation (C,).

    Of a mixture x of a share t of such numbers of variance v, d = t^2 + (1 - t)^2: v d over the variance of x.
    """
    time = torch.special.ndtri((torch.arange(STEPS) + 0.5) / STEPS).sigmoid()[:, None]
    variance = strength.cpu().square()
    spread = time.square() + (1 - time).square()
    return (variance * spread / (variance * time.square() + (1 - time).square())).mean().item()
