"""Quality of a prior during training: measures of its code maps, and pictures of the decoded samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.data.datasets.slices import SliceDataset
from medsynth.models.vqvae.priors.base import CodePrior
from medsynth.models.vqvae.priors.code_measures import histogram_divergence, pair_divergence
from medsynth.models.vqvae.priors.transformer import CodeTransformer
from medsynth.training.samples import SampleGrid


def real_images(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False) -> tuple[Tensor, Tensor]:
    """For MONAI's `prepare_batch`: a prior has no input, so real images are both input and label."""
    images = batch[Keys.IMAGE].to(device, non_blocking=non_blocking)
    return images, images


class CodeQuality(Metric):
    """Compares code maps that a prior draws with those of a validation's real images.

    In the validator's metrics: `code_kl`, the divergence of the frequencies of codes; `pair_js`, that of neighbouring
    pairs. Each has a `..._floor`: the same measure of as many training images.

    Args:
        network: the moving average of the prior.
        train: the training slices.
        count: largest number of maps drawn, and of real ones.
        seed: of the samples.
    """

    def __init__(self, network: CodePrior, train: SliceDataset, count: int = 256, seed: int = 0) -> None:
        self.network, self.train, self.count, self.seed = network, train, count, seed
        self._real: Tensor | None = None
        self._floor: dict[str, float] = {}
        super().__init__(from_engine([Keys.LABEL]))

    def reset(self) -> None:
        """Forget the images; the real codes of the first validation stay."""
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
        indices = np.linspace(0, len(self.train) - 1, min(len(self.train), len(images))).astype(np.int64)
        others = self.train.read(indices)[:, None].float().to(images.device)
        self._real = stage_one.encode_indices(images).cpu()
        self._floor = self._divergences(stage_one.encode_indices(others).cpu())

    def _divergences(self, codes: Tensor) -> dict[str, float]:
        num_codes = self.network.stage_one.num_codes
        return {
            "code_kl": histogram_divergence(self._real, codes, num_codes),
            "pair_js": pair_divergence(self._real, codes, num_codes),
        }


class CodeLikelihood(Inferer):
    """Negative log-likelihood of the codes of images, (N, 1, H, W) -> (N,), in nats per code."""

    def __call__(self, inputs: Tensor, network: CodeTransformer, label: Tensor, position: Tensor) -> Tensor:
        """For class and position (N,)."""
        return network.negative_log_likelihood(network.stage_one.encode_indices(inputs), label, position)


class NegativeLogLikelihood(Metric):
    """Mean of a validator's predictions, made by `CodeLikelihood`: in nats per code."""

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
    """Draws samples as `SampleGrid` does, and next to them the decoded images of the same codes in random order."""

    shows = "samples on the left, and on the right the images of the same codes in random order"

    def pictures(self, engine: Engine) -> tuple[Tensor, int]:
        """Two squares of images side by side: samples, and those of their shuffled codes."""
        network, side = engine.generator, round(self.count**0.5)
        codes = network.sample_codes(side**2, self.run.seed)[0]
        order = torch.randperm(codes.numel(), generator=torch.Generator().manual_seed(self.run.seed))
        shuffled = codes.flatten()[order.to(codes.device)].view_as(codes)
        squares = [network.decode(part).cpu().unflatten(0, (side, side)) for part in (codes, shuffled)]
        return torch.cat(squares, dim=1).flatten(0, 1), 2 * side
