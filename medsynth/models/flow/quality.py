"""The loss of a flow on held-out images, which chooses the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.models.flow.learning import flow_loss
from medsynth.models.flow.network import LatentFlow
from medsynth.nn.precision import autocast

TIMES = 2  # at which each image is measured


class HeldOutFlowLoss(Metric):
    """Mean `flow_loss` of a validation's images, under their own conditions, with the same noise each time.

    1 is a prior that has learned nothing; lower is better. While the prior waits for its autoencoder, it is 1 plus the
    mean absolute error of reconstructions: so every model with a prior counts as better than one without.

    Args:
        prior: the moving average of the flow.
        encode: images (N, 1, H, W) in [-1, 1] -> latents (N, latent_channels, h, w).
        seed: of times and noise.
        given: label maps (N, 1, H, W), where batches have a `segmentation` -> what the flow is told of them.
    """

    def __init__(
        self,
        prior: LatentFlow,
        encode: Callable[[Tensor], Tensor],
        seed: int = 0,
        given: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.prior, self.encode, self.seed, self.given = prior, encode, seed, given
        super().__init__(from_engine([Keys.PRED, Keys.LABEL]))

    def reset(self) -> None:
        """Forget all images."""
        self._values: list[Tensor] = []
        self._random = torch.Generator().manual_seed(self.seed)

    def iteration_completed(self, engine: Engine) -> None:
        """Measure a batch, whose conditions are not in the output."""
        self.update((engine.state.batch, *self._output_transform(engine.state.output)))

    def update(self, output: tuple[dict[str, Tensor], Tensor, Tensor]) -> None:
        """Measure a batch, its predictions and its labels."""
        batch, prediction, label = output
        if self.prior.is_fitted:
            self._values += self.losses(batch)
        else:
            self._values.append(1 + (prediction - label).abs().mean(dim=(1, 2, 3)).cpu())

    @torch.no_grad()
    def losses(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """(N,) at each of several times, on the CPU."""
        device = self.prior.mean.device
        images, *facts = (batch[name].to(device) for name in ("image", "label", "position", "covariates"))
        with autocast(device):
            latents = self.prior.normalize(self.encode(images))
            condition = self.prior.embed(*facts, latents)
        maps = self.given(batch["segmentation"].to(device)) if self.given and "segmentation" in batch else None
        count, found = len(images), []
        for index in range(TIMES):
            uniform = (torch.rand(count, generator=self._random) + index) / TIMES
            noise = torch.randn(latents.shape, generator=self._random)
            drawn = (part.to(device) for part in (uniform, noise))
            with autocast(device):
                found.append(flow_loss(self.prior, latents, condition, None, *drawn, maps).cpu())
        return found

    def compute(self) -> float:
        """The mean."""
        return torch.cat(self._values).mean().item()
