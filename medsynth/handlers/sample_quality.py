"""How close generated images come to held-out real ones, measured while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from medsynth.handlers import random_state
from medsynth.metrics.texture import gradient_ratio, psd, swd


def lower_is_better(current: float, best: float) -> bool:
    """For MONAI's `metric_cmp_fn`."""
    return current < best


class ReconstructionQuality(Metric):
    """Mean over images of a measure of a validator's predictions against its labels, both in [-1, 1].

    Args:
        measure: (fake, real, data_range) -> (N,), such as `medsynth.metrics.image.psnr`.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor, float], Tensor]) -> None:
        self.measure = measure
        super().__init__(from_engine([Keys.PRED, Keys.LABEL]))

    def reset(self) -> None:
        """Forget all images."""
        self._values: list[Tensor] = []

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Measure a batch."""
        self._values.append(self.measure(*output, 2.0).cpu())

    def compute(self) -> float:
        """The mean."""
        return torch.cat(self._values).mean().item()


class SampleQuality(Metric):
    """Sliced Wasserstein distance between samples and the real images of a validation; lower is better.

    Beside it, in the validator's metrics: the distance at each scale, the power spectrum's difference in dB and the
    ratio of the mean gradients (sharpness; 1 is best).

    Args:
        network: with `sample(count, seed)`, the network that users get.
        count: images drawn, and real ones kept, at most.
        seed: of the samples and the projections.
    """

    def __init__(self, network: nn.Module, count: int = 500, seed: int = 0) -> None:
        self.network, self.count, self.seed = network, count, seed
        super().__init__(from_engine([Keys.LABEL]))

    def reset(self) -> None:
        """Forget the real images."""
        self._real: list[Tensor] = []

    def update(self, output: tuple[Tensor]) -> None:
        """Keep the real images of a validator's output."""
        self._real.append(output[0].detach().cpu())

    def compute(self) -> dict[str, float]:
        """All measures by name."""
        real = torch.cat(self._real)
        spread = torch.linspace(0, len(real) - 1, min(len(real), self.count)).long()
        with random_state.untouched():
            fake = self.network.sample(self.count, self.seed)[0].cpu()
        real, fake = ((images.mean(dim=1).numpy() + 1) / 2 for images in (real[spread], fake))
        scales = swd(real, fake, self.seed, patches_per_image=32, projections=128)
        spectrum = psd(real, fake)
        return {
            "swd": sum(scales.values()) / len(scales),
            **{f"swd_{name}": value for name, value in scales.items()},
            "psd_db": spectrum[0],
            "gradient_ratio": gradient_ratio(real, fake),
        }

    def completed(self, engine: Engine, name: Any) -> None:
        """Put the distance under `name` and every measure under its own."""
        measures = self.compute()
        engine.state.metrics |= measures | {str(name): measures["swd"]}
