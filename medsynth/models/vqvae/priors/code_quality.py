"""How a prior over codes goes, as training goes: measures of its code maps, and pictures of what they decode to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.vqvae.priors.base import CodePrior
from medsynth.models.vqvae.priors.code_measures import histogram_divergence, pair_divergence, snap_distance
from medsynth.models.vqvae.priors.gan import CodeGan
from medsynth.training.samples import SampleGrid


def real_images(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False) -> tuple[Tensor, Tensor]:
    """For MONAI's `prepare_batch`: a prior makes its images of nothing, so real ones are both input and label."""
    images = batch[Keys.IMAGE].to(device, non_blocking=non_blocking)
    return images, images


class CodeQuality(Metric):
    """Code maps that a prior draws against those of a validation's real images.

    In the validator's metrics: `code_kl`, the divergence of the frequencies of codes; `pair_js`, that of neighbouring
    pairs; `snap_distance`, how far places lie from codes before they become codes, for a GAN. Beside each, `..._floor`:
    the same of as many training images, and of the encoder's own latents.

    Args:
        network: the prior that users get.
        train: the training slices.
        count: maps drawn, and real ones kept, at most.
        seed: of the samples.
    """

    def __init__(self, network: CodePrior, train: SliceDataset, count: int = 256, seed: int = 0) -> None:
        self.network, self.train, self.count, self.seed = network, train, count, seed
        self._real: Tensor | None = None
        self._floor: dict[str, float] = {}
        super().__init__(from_engine([Keys.LABEL]))

    def reset(self) -> None:
        """Forget the images, not the codes of the first validation: they stay the same."""
        self._images: list[Tensor] = []

    def update(self, output: tuple[Tensor]) -> None:
        """Keep the real images of a validator's output."""
        if self._real is None:
            self._images.append(output[0].detach())

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """All measures by name."""
        if self._real is None:
            self._measure_real()
        fake = self.network.sample_codes(len(self._real), self.seed)[0].cpu()
        measures = self._divergences(fake)
        if isinstance(self.network, CodeGan):
            aims = self.network.aims(len(self._real), self.seed)
            measures["snap_distance"] = snap_distance(aims, self.network.codes)
        return {
            key: value
            for name in measures
            for key, value in ((name, measures[name]), (f"{name}_floor", self._floor[name]))
        }

    def completed(self, engine: Engine, name: Any) -> None:
        """Put every measure under its own name."""
        engine.state.metrics |= self.compute()

    def _measure_real(self) -> None:
        stage_one = self.network.stage_one
        images = torch.cat(self._images)[: self.count]
        places = np.linspace(0, len(self.train) - 1, min(len(self.train), len(images))).astype(np.int64)
        others = self.train.read(places)[:, None].float().to(images.device)
        latents = stage_one.encode(images)
        self._real = stage_one.index(latents).cpu()
        self._floor = self._divergences(stage_one.encode_indices(others).cpu())
        self._floor["snap_distance"] = snap_distance(latents, stage_one.codebook.codes)

    def _divergences(self, codes: Tensor) -> dict[str, float]:
        num_codes = self.network.stage_one.num_codes
        return {
            "code_kl": histogram_divergence(self._real, codes, num_codes),
            "pair_js": pair_divergence(self._real, codes, num_codes),
        }


class NegativeLogLikelihood(Metric):
    """Mean of a validator's predictions, which are how surprising each image's codes are, in nats a code."""

    def __init__(self) -> None:
        super().__init__(from_engine([Keys.PRED]))

    def reset(self) -> None:
        """Forget all images."""
        self._values: list[Tensor] = []

    def update(self, output: tuple[Tensor]) -> None:
        """Add a batch."""
        self._values.append(output[0].detach().cpu())

    def compute(self) -> float:
        """The mean."""
        return torch.cat(self._values).mean().item()


class PriorGrid(SampleGrid):
    """Draws samples as `SampleGrid` does, and beside them what the same codes decode to in random places."""

    def pictures(self, engine: Engine) -> tuple[Tensor, int]:
        """Two squares of images side by side: samples, and their codes shuffled."""
        network, side = engine.generator, round(self.count**0.5)
        codes = network.sample_codes(side**2, self.run.seed)[0]
        order = torch.randperm(codes.numel(), generator=torch.Generator().manual_seed(self.run.seed))
        shuffled = codes.flatten()[order.to(codes.device)].view_as(codes)
        squares = [network.decode(part).cpu().unflatten(0, (side, side)) for part in (codes, shuffled)]
        return torch.cat(squares, dim=1).flatten(0, 1), 2 * side
