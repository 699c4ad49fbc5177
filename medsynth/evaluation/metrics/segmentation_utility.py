"""Utility of synthetic images with label maps: a segmenter trained on them is tested on real patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from numpy.typing import NDArray
from torch import Tensor, nn

from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.result import Measure

CHANNELS, STRIDES, UNITS = (16, 32, 64, 128), (2, 2, 2), 1
STEPS, BATCH, LEARNING_RATE = 400, 16, 3e-3  # with one cycle of the learning rate
AT_ONCE = 64
MULTIPLE = 8  # pixels a side


@dataclass(frozen=True)
class LabelledSet:
    """Images with label maps.

    Args:
        images: (N, H, W) in [0, 1].
        maps: (N, H, W), indices of the classes, 0 for the background.
        subjects: (N,), whose image each is.
    """

    images: NDArray[np.float32]
    maps: NDArray[np.uint8]
    subjects: Sequence[str]

    def joined(self, other: LabelledSet) -> LabelledSet:
        """Both as one."""
        arrays = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("images", "maps"))
        return LabelledSet(*arrays, [*self.subjects, *other.subjects])


def segmentation_measures(
    train: LabelledSet, held_out: LabelledSet, synthetic: LabelledSet, names: Sequence[str], seed: int
) -> list[Measure]:
    """Dice of segmenters of one recipe, the mean of all classes and each class by itself, as `dice_tstr/cortex`.

    `dice_tstr`: trained on synthetic images; `dice_augmented`: on real and synthetic ones; both are tested on real
    held-out patients, and their floor is a segmenter that was trained on the real training images. `dice_shown` is that
    segmenter's on the synthetic images: whether they show what their label maps say.

    Args:
        names: of the classes, the background's first.
    """
    count = len(names)
    of_real = learn(train, count, seed)
    real = overlaps(of_real, held_out, count)
    found = {
        "dice_tstr": overlaps(learn(synthetic, count, seed), held_out, count),
        "dice_augmented": overlaps(learn(train.joined(synthetic), count, seed), held_out, count),
        "dice_shown": overlaps(
            of_real, LabelledSet(synthetic.images, synthetic.maps, [""] * len(synthetic.maps)), count
        ),
    }
    measures = []
    for name, own in found.items():
        rows = {name: slice(None)} | {f"{name}/{names[k]}": slice(k - 1, k) for k in range(1, count)}
        measures += [
            _measure(key, own[:, part], real[:, part], len(synthetic.images), seed) for key, part in rows.items()
        ]
    return measures


def learn(images: LabelledSet, classes: int, seed: int) -> nn.Module:
    """A U-Net trained on images with label maps, each batch a random part of them.

    Reference: Ronneberger et al., arXiv:1505.04597; residual units: Zhang et al., arXiv:1711.10684.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = UNet(2, 1, classes, CHANNELS, STRIDES, num_res_units=UNITS)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)  # a small class is absent from most slices
    inputs, targets = torch.from_numpy(images.images)[:, None], torch.from_numpy(images.maps)[:, None]
    for _ in range(STEPS):
        some = torch.randint(len(inputs), (BATCH,), generator=random)
        loss = loss_of(network(_padded(inputs[some])), _padded(targets[some].float()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def overlaps(network: nn.Module, tested: LabelledSet, classes: int) -> NDArray[np.float64]:
    """(subjects, classes - 1): Dice of each class but the background in all images of a subject.

    From 0 to 1, higher is better; NaN where a subject has nothing of a class.
    """
    subjects = {name: row for row, name in enumerate(dict.fromkeys(tested.subjects))}
    rows = np.array([subjects[name] for name in tested.subjects])
    both, total, there = (np.zeros((len(subjects), classes)) for _ in range(3))
    height, width = tested.images.shape[1:]
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        logits = network(_padded(torch.from_numpy(tested.images[part])[:, None]))[..., :height, :width]
        found, true = logits.argmax(dim=1).numpy(), tested.maps[part]
        for index in range(classes):
            is_found, is_true = found == index, true == index
            np.add.at(both[:, index], rows[part], (is_found & is_true).sum(axis=(1, 2)))
            np.add.at(total[:, index], rows[part], is_found.sum(axis=(1, 2)) + is_true.sum(axis=(1, 2)))
            np.add.at(there[:, index], rows[part], is_true.sum(axis=(1, 2)))
    dice = np.divide(2 * both, total, out=np.full_like(both, np.nan), where=there > 0)
    return dice[:, 1:]


def _padded(images: Tensor) -> Tensor:
    """With rows and columns of zeros, so that the network's strides fit."""
    below, right = (-side % MULTIPLE for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, below))


def _mean(dice: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The mean over classes of the mean over subjects; NaN if no subject has any."""
    known = np.isfinite(dice) * weights[:, None]
    sums, counts = (np.nan_to_num(dice) * known).sum(axis=0), known.sum(axis=0)
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if (counts > 0).any() else float("nan")


def _measure(name: str, dice: NDArray[np.float64], real: NDArray[np.float64], count: int, seed: int) -> Measure:
    value, floor = (_mean(values, np.ones(len(values))) for values in (dice, real))
    measure = partial(Measure, name, unit="", direction="higher", n=count)
    if not np.isfinite(value):
        return measure(value=None, note="no image that is tested has this class")
    replicates = lambda draws: np.array([_mean(dice, draw) for draw in draws])  # noqa: E731
    interval = bootstrap_interval(value, replicates, len(dice), seed, (0.0, 1.0)) if len(dice) > 1 else None
    return measure(value=value, interval=interval, floor=floor if np.isfinite(floor) else None)
