"""How good translations of held-out subjects are, measured during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsynth.data.datalist.datalist import PAIR
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.evaluation.metrics.paired.lookup import Lookup, intensity_lookup
from medsynth.evaluation.metrics.texture import swd
from medsynth.losses.similarity import inside_patient, masked_dissimilarity
from medsynth.models.translation.network import middle
from medsynth.models.translation.pair_slices import BODY, PairDataset
from medsynth.training.sample_quality import PATCHES_PER_IMAGE, PROJECTIONS

KEY = "error"
LOOKED_UP = 64  # training slices that the lookup of intensities is made from
MOST_IMAGES = 500  # whose texture is compared


def both_domains(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False) -> tuple:
    """For MONAI's `prepare_batch`: slices of a `PairDataset`, whose network is called with sources and targets."""
    names = (*PAIR, "position", "mask", *([BODY] if BODY in batch else []))
    source, target, position, *known = (batch[key].to(device, non_blocking=non_blocking) for key in names)
    truth = middle(source, source.shape[1] // target.shape[1]), middle(target)
    return source, (*truth, *known), (target, position, position), {}


class TranslationQuality(Metric):
    """Both directions of a translation, or the one of several contrasts; `error` is the mean, lower is better.

    With pairs, inside the patient (`inside_patient`), means over slices: `mae_*` in the units of the domain
    that is made where these are the same for all images (Hounsfield units for CT), else in percent of its range;
    `psnr_*` in dB, range 2; `ssim_*`, window 7 x 7, uniform. `error` is the mean absolute error in percent of the
    range, and `error_lookup` that of a lookup of intensities, which sees one pixel at a time; of several contrasts,
    there is none.

    Without pairs there is no truth to compare with: `swd_*` is the sliced Wasserstein distance between the patches of
    translations and of that domain's images, mean over the scales of a pyramid, and `error` is its mean. It tells
    whether translations look like the other domain, not whether they show the patient.

    Args:
        spaces: what the values of "source" and "target" stand for.
        seed: of the projections.
        train: the training slices, from whose pairs the lookup of intensities is made; None: there is none.
    """

    def __init__(self, spaces: Mapping[str, SliceSpace], seed: int = 0, train: PairDataset | None = None) -> None:
        self.spaces, self.seed = spaces, seed
        self._lookups = None if train is None else lookups(train)
        super().__init__(from_engine([Keys.PRED, Keys.LABEL]), skip_unrolling=True)

    def reset(self) -> None:
        """Forget all images."""
        self._pairs: dict[str, list[Tensor]] = {name: [] for name in PAIR}
        self._looked_up: list[Tensor] = []
        self._fake: dict[str, list[Tensor]] = {name: [] for name in PAIR}
        self._real: dict[str, list[Tensor]] = {name: [] for name in PAIR}

    def update(self, output: tuple[Tensor | tuple[Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        """Measure a batch.

        Args:
            output: (translated sources, translated targets), or the former alone; (sources, targets, which are there,
                the patient if known).
        """
        fakes, (source, target, mask, *body) = output
        fakes = dict(zip(PAIR[::-1], [fakes] if isinstance(fakes, Tensor) else fakes, strict=False))
        both = mask.all(dim=1)
        for name, real, has, made in (("source", source, *mask.T), ("target", target, *mask.T.flip(0))):
            if (fake := fakes.get(name)) is None:
                continue
            if both.any():
                inside = inside_patient(body[0][both] if body else None, source[both], target[both])
                self._pairs[name].append(measured(fake[both].float(), real[both], inside).cpu())
                if self._lookups:
                    given = source if name == "target" else target
                    found = torch.from_numpy(self._lookups[name](given[both].cpu().numpy()))
                    self._looked_up.append(percent_error(found, real[both].cpu(), inside.cpu()))
            self._fake[name].append(fake[made & ~both].float().cpu())
            self._real[name].append(real[has & ~both].cpu())

    def compute(self) -> dict[str, float]:
        """All measures by name, `error` first."""
        if self._pairs["target"]:
            means = {name: torch.cat(self._pairs[name]).mean(dim=0).tolist() for name in PAIR if self._pairs[name]}
            measures = {KEY: sum(mae for mae, *_ in means.values()) / len(means)}
            for name, (mae, psnr, ssim) in reversed(means.items()):
                space = self.spaces[name]
                unit = (space.bounds[1] - space.bounds[0]) / 100 if space.units == "HU" else 1.0
                measures |= {f"mae_{name}": mae * unit, f"psnr_{name}": psnr, f"ssim_{name}": ssim}
            return measures | ({"error_lookup": torch.cat(self._looked_up).mean().item()} if self._looked_up else {})
        distances = {f"swd_{name}": self._distance(name) for name in PAIR[::-1]}
        return {KEY: sum(distances.values()) / len(distances)} | distances

    def completed(self, engine: Engine, name: Any) -> None:
        """Put every measure under its own name."""
        measures = self.compute()
        engine.state.metrics |= measures | {str(name): measures[KEY]}

    def _distance(self, name: str) -> float:
        real, fake = ((torch.cat(parts)[:, 0].numpy() + 1) / 2 for parts in (self._real[name], self._fake[name]))
        if not len(real) or not len(fake):
            return float("nan")
        some = [images[:: 1 + len(images) // MOST_IMAGES] for images in (real, fake)]
        levels = swd(*some, self.seed, patches_per_image=PATCHES_PER_IMAGE, projections=PROJECTIONS)
        return sum(levels.values()) / len(levels)


def measured(fake: Tensor, real: Tensor, inside: Tensor) -> Tensor:
    """Of each image inside the patient: mean absolute error in percent of the range, PSNR in dB, SSIM.

    Args:
        fake, real: (N, 1, H, W) in [-1, 1].
        inside: (N, 1, H, W), 1 inside the patient and 0 outside.

    Returns: (N, 3).
    """
    pixels = inside.sum(dim=(1, 2, 3)).clamp_min(1)
    mse = ((fake - real) * inside).square().sum(dim=(1, 2, 3)) / pixels
    psnr = 10 * torch.log10(4 / mse.clamp_min(1e-10))
    error = percent_error(fake, real, inside)
    return torch.stack([error, psnr, 1 - masked_dissimilarity(fake, real, inside)], dim=1)


def percent_error(fake: Tensor, real: Tensor, inside: Tensor) -> Tensor:
    """(N,): the first of what is `measured`."""
    pixels = inside.sum(dim=(1, 2, 3)).clamp_min(1)
    return 50 * ((fake - real) * inside).abs().sum(dim=(1, 2, 3)) / pixels


def lookups(train: PairDataset) -> dict[str, Lookup]:
    """For "source" and "target", the mean of its intensities at each one of the other, inside the patients of pairs.

    Args:
        train: at most `LOOKED_UP` of its slices are read.

    Returns: {} if there is no pair, or if sources are several contrasts.
    """
    pairs = np.flatnonzero(train.mask.all(axis=1))
    if not len(pairs) or train.contrasts:
        return {}
    chosen = pairs[np.linspace(0, len(pairs) - 1, min(len(pairs), LOOKED_UP)).astype(int)]
    middle = train.preprocessing["source"].neighbours
    source, target = (train.stored_slices.read(train.views[name][chosen][:, [middle]]) for name in PAIR)
    body = train.stored_slices.read(train.views[BODY][chosen]) if BODY in train.views else None
    inside = inside_patient(body, source, target) > 0
    values = source[inside].numpy(), target[inside].numpy()
    return {"target": intensity_lookup(*values), "source": intensity_lookup(*values[::-1])}
