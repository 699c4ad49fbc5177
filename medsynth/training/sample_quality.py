"""How close generated images come to held-out real ones, measured during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from medsynth.data.datasets.slices import SliceDataset
from medsynth.evaluation.metrics.distribution.distances import frechet_percent
from medsynth.evaluation.metrics.distribution.radiomics import radiomics
from medsynth.evaluation.metrics.texture import gradient_ratio, psd, swd
from medsynth.training import random_state

PATCHES_PER_IMAGE, PROJECTIONS = 32, 128  # per scale: fewer than in an evaluation, for speed


def lower_is_better(current: float, best: float) -> bool:
    """For MONAI's `metric_cmp_fn`."""
    return current < best


class ReconstructionQuality(Metric):
    """Mean over images of a measure of a validator's predictions against its labels, both in [-1, 1].

    Args:
        measure: (fake, real, data_range) -> (N,), such as `medsynth.evaluation.metrics.image.psnr`.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor, float], Tensor]) -> None:
        self.measure = measure
        super().__init__(from_engine([Keys.PRED, Keys.LABEL]))

    def reset(self) -> None:
        """Forget all images."""
        self._values: list[Tensor] = []

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Measure a batch."""
        prediction, label = (images + 1 for images in output)  # from 0: SSIM is for intensities that are not negative
        self._values.append(self.measure(prediction, label, 2.0).cpu())

    def compute(self) -> float:
        """The mean."""
        return torch.cat(self._values).mean().item()


class NothingToInfer(Inferer):
    """For validating a generator without input: `SampleQuality` draws the images itself."""

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """The real images, untouched."""
        return inputs


class SampleQuality(Metric):
    """How far samples are from a validation's real images, as a multiple of how far real training images are.

    The measure is the sliced Wasserstein distance, each scale of a pyramid divided by its floor, then averaged: 1 is as
    good as real images of other patients, lower is better. The floor keeps the coarse scales, where a few validation
    subjects differ from any other set, from deciding which model is best. The validator's metrics also get the distance
    at each scale, the power spectrum's difference in dB and the ratio of mean gradients (sharpness; 1 is best).

    With `key` `fd_radiomics`, the measure is the Fréchet distance of 22 radiomics (first order, co-occurrence) in
    percent of the training images' variance: co-occurrence separates grain from anatomy better than patches do.

    Args:
        network: with `sample(count, seed)`, the moving average.
        train: the training slices, which the floor is measured with.
        count: largest number of images drawn, and of real ones; 0: nothing is measured.
        seed: of the samples and the projections.
        key: the measure that chooses the best model, `swd_over_floor` or `fd_radiomics`.
    """

    def __init__(
        self, network: nn.Module, train: SliceDataset, count: int = 500, seed: int = 0, key: str = "swd_over_floor"
    ) -> None:
        self.network, self.train, self.count, self.seed, self.key = network, train, count, seed, key
        self._floor: dict[int, float] | None = None
        self._train_radiomics: np.ndarray | None = None
        super().__init__(from_engine([Keys.LABEL]))

    def reset(self) -> None:
        """Forget the real images."""
        self._real: list[Tensor] = []

    def update(self, output: tuple[Tensor]) -> None:
        """Keep the real images of a validator's output."""
        if self.count:
            self._real.append(output[0].detach().cpu())

    def compute(self) -> dict[str, float]:
        """All measures by name; none where no images are to be drawn."""
        if not self.count:
            return {}
        real = _unit(_spread(torch.cat(self._real), self.count))
        if self._floor is None:
            self._floor = self._distances(real, self._train_images())
        with random_state.untouched():
            fake = _unit(self.network.sample(self.count, self.seed)[0].cpu())
        scales = self._distances(real, fake)
        spectrum = psd(real, fake)
        measures = {
            "swd_over_floor": sum(scales[size] / self._floor[size] for size in scales) / len(scales),
            **{f"swd_{size}": value for size, value in scales.items()},
            "psd_db": spectrum.rms,
            "gradient_ratio": gradient_ratio(real, fake),
        }
        if self.key == "fd_radiomics":
            measures = {self.key: self._radiomics_distance(real, fake)} | measures
        return measures

    def completed(self, engine: Engine, name: Any) -> None:
        """Put every measure under its own name, that of `key` under `name` as well."""
        measures = self.compute()
        engine.state.metrics |= measures | ({str(name): measures[self.key]} if measures else {})

    def _train_images(self) -> np.ndarray:
        return _unit(self.train.read(_places(len(self.train), self.count))[:, None])

    def _radiomics_distance(self, real: np.ndarray, fake: np.ndarray) -> float:
        if self._train_radiomics is None:
            self._train_radiomics = radiomics(self._train_images())
        train = self._train_radiomics
        mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-9
        train, real, fake = ((rows - mean) / deviation for rows in (train, radiomics(real), radiomics(fake)))
        return frechet_percent(real, fake, train)

    def _distances(self, real: np.ndarray, fake: np.ndarray) -> dict[int, float]:
        return swd(real, fake, self.seed, patches_per_image=PATCHES_PER_IMAGE, projections=PROJECTIONS)


def _places(total: int, count: int) -> np.ndarray:
    """At most `count` indices, evenly spread over `total`."""
    return np.linspace(0, total - 1, min(total, count)).astype(np.int64)


def _spread(images: Tensor, count: int) -> Tensor:
    return images[torch.from_numpy(_places(len(images), count))]


def _unit(images: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, H, W) in [0, 1]."""
    return (images.float().mean(dim=1).numpy() + 1) / 2
