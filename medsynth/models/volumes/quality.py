"""The loss of the flows over volumes on held-out ones, which chooses the model."""

from __future__ import annotations

import torch
from torch import Tensor

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing, plain
from medsynth.models.flow.learning import flow_loss
from medsynth.models.flow.quality import TIMES, HeldOutFlowLoss
from medsynth.models.volumes.network import VolumeFlow
from medsynth.nn.precision import autocast


class HeldOutVolumeLoss(HeldOutFlowLoss):
    """Mean `flow_loss` over the levels of a validation's volumes, as `HeldOutFlowLoss`; crops stay the same, too.

    Args:
        network: the moving average.
        preprocessing: of the volumes.
        seed: of times, noise and crops.
    """

    def __init__(self, network: VolumeFlow, preprocessing: VolumePreprocessing, seed: int = 0) -> None:
        self.network, self.preprocessing = network, preprocessing
        super().__init__(network, lambda images: images, seed)

    @torch.no_grad()
    def losses(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """(N,) at each of several times, on the CPU."""
        device = self.network.levels[0].mean.device
        images, *facts = (batch[name].to(device) for name in ("image", "label", "position", "covariates"))
        images = plain(images, self.preprocessing.size, self.preprocessing.finer)
        found = []
        for index in range(TIMES):
            of_levels = []
            for level, (latents, beside) in zip(self.network.levels, self.network.pyramid(images), strict=True):
                latents = level.normalize(latents)
                uniform = (torch.rand(len(images), generator=self._random) + index) / TIMES
                noise = torch.randn(latents.shape, generator=self._random)
                with autocast(device):
                    drawn = (part.to(device) for part in (uniform, noise))
                    condition = level.embed(*facts, latents)
                    of_levels.append(flow_loss(level, latents, condition, None, *drawn, given=beside).cpu())
            found.append(torch.stack(of_levels).mean(dim=0))
        return found
