"""Utility of synthetic images with label maps: a segmenter trained on them is tested on real patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from tqdm import tqdm

from medsynth.evaluation.metrics.catalog import entry
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.segmentation_scores import areas, dice, hausdorff

CHANNELS, STRIDES, UNITS = (16, 32, 64, 128), (2, 2, 2), 1
STEPS, BATCH, LEARNING_RATE = 1200, 16, 3e-3  # with one cycle of the learning rate; after 400, rare classes come and go
AT_ONCE = 64
MULTIPLE = 8  # pixels a side
BLUR_PIXELS = 0.7  # of painted images


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

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,), number of the subject of each image."""
        numbers = {name: row for row, name in enumerate(dict.fromkeys(self.subjects))}
        return np.array([numbers[name] for name in self.subjects])

    def as_one(self) -> LabelledSet:
        """The same as if all were of one subject."""
        return replace(self, subjects=[""] * len(self.images))

    def joined(self, other: LabelledSet) -> LabelledSet:
        """Both as one."""
        arrays = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("images", "maps"))
        return LabelledSet(*arrays, [*self.subjects, *other.subjects])


def segmentation_measures(
    train: LabelledSet,
    held_out: LabelledSet,
    synthetic: LabelledSet,
    names: Sequence[str],
    seed: int,
    pixel_mm: Sequence[float] | None = None,
) -> list[Measure]:
    """Dice and 95 % Hausdorff distance of segmenters of one recipe, and areas; of each class, as `dice_tstr/cortex`.

    `dice_tstr`: trained on synthetic images; `dice_augmented`: on real and synthetic ones; both are tested on real
    held-out patients, and their floor is a segmenter that was trained on the real training images. `dice_shown` is that
    segmenter's on the synthetic images: whether they show what their label maps say. The baseline are images that
    `painted` makes of the synthetic label maps. `hd95_...` is the same in mm. All of them are also means over the
    classes. `area_ratio` is what that segmenter finds in synthetic images over what it finds in held-out ones.

    Args:
        names: of the classes, the background's first.
        pixel_mm: between rows and columns; None: unknown, and distances are in pixels.
    """
    baseline = painted(train, synthetic.maps, seed)
    of_real, alone, both, of_painted = (
        learn(one, len(names), seed) for one in (train, synthetic, train.joined(synthetic), baseline)
    )
    found = {
        "floor": (segmented(of_real, held_out.images), held_out),
        "tstr": (segmented(alone, held_out.images), held_out),
        "augmented": (segmented(both, held_out.images), held_out),
        "shown": (segmented(of_real, synthetic.images), synthetic.as_one()),
        "painted_tstr": (segmented(of_painted, held_out.images), held_out),
        "painted_shown": (segmented(of_real, baseline.images), baseline),
    }
    how = {
        "dice": partial(dice, classes=len(names)),
        "hd95": partial(hausdorff, classes=len(names), pixel_mm=pixel_mm or (1.0, 1.0)),
    }
    measures = []
    for kind, score in how.items():
        scores = {name: score(maps, tested.maps, tested.rows) for name, (maps, tested) in found.items()}
        for name in ("tstr", "augmented", "shown"):
            three = scores[name], scores["floor"], scores.get(f"painted_{name}")
            parts = {"": slice(None)} | {f"/{names[k]}": slice(k - 1, k) for k in range(1, len(names))}
            for end, part in parts.items():
                values = (None if one is None else one[:, part] for one in three)
                measures.append(_measure(f"{kind}_{name}{end}", *values, len(synthetic.images), seed))
    if pixel_mm is None:
        measures = [replace(one, unit="pixels") if one.name.startswith("hd95") else one for one in measures]
    found["train"] = (segmented(of_real, train.images), train.as_one())
    sizes = [areas(maps, one.maps, one.rows, len(names)) for maps, one in map(found.get, ("shown", "floor", "train"))]
    for column, name in enumerate(names[1:]):
        three = (size[:, column] for size in sizes)
        measures.append(_area_ratio(f"area_ratio/{name}", *three, len(synthetic.images), seed))
    return measures


def painted(train: LabelledSet, maps: NDArray[np.uint8], seed: int) -> LabelledSet:
    """The simplest images of label maps: each class in a Gaussian of its training intensities, then blurred.

    Reference: Billot et al., SynthSeg, arXiv:2107.09559, without its random contrasts and artefacts.
    """
    random = np.random.default_rng(seed)
    table = np.zeros((2, 256), np.float32)
    for index in np.unique(train.maps):
        values = train.images[train.maps == index]
        table[:, index] = values.mean(), values.std()
    images = table[0][maps] + table[1][maps] * random.standard_normal(maps.shape, dtype=np.float32)
    images = ndimage.gaussian_filter(images, (0, BLUR_PIXELS, BLUR_PIXELS)).clip(0, 1)
    return LabelledSet(images, maps, [""] * len(maps))


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
    for _ in tqdm(range(STEPS), "training a segmenter", unit="step", leave=False):
        some = torch.randint(len(inputs), (BATCH,), generator=random)
        loss = loss_of(network(_padded(inputs[some])), _padded(targets[some].float()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def segmented(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The class of each pixel that a segmenter finds in images (N, H, W)."""
    height, width = images.shape[1:]
    parts = torch.from_numpy(images)[:, None].split(AT_ONCE)
    found = [network(_padded(part))[..., :height, :width].argmax(dim=1) for part in parts]
    return torch.cat(found).to(torch.uint8).numpy()


def _padded(images: Tensor) -> Tensor:
    """With rows and columns of zeros, so that the network's strides fit."""
    below, right = (-side % MULTIPLE for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, below))


def _mean(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The mean over classes of the mean over subjects; NaN if no subject has any."""
    known = np.isfinite(scores) * weights[:, None]
    sums, counts = (np.nan_to_num(scores) * known).sum(axis=0), known.sum(axis=0)
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if (counts > 0).any() else float("nan")


def _measure(
    name: str,
    scores: NDArray[np.float64],
    real: NDArray[np.float64],
    simple: NDArray[np.float64] | None,
    count: int,
    seed: int,
) -> Measure:
    """Of scores (subjects, classes), with those of real images and of painted ones."""
    kind = entry(name)
    value, *others = (None if one is None else _mean(one, np.ones(len(one))) for one in (scores, real, simple))
    measure = partial(Measure, name, unit=kind.unit, direction=kind.direction, n=count)
    if not np.isfinite(value):
        return measure(value=None, note="no image that is tested has this class, or it is not found in any")
    replicates = lambda draws: np.array([_mean(scores, draw) for draw in draws])  # noqa: E731
    interval = bootstrap_interval(value, replicates, len(scores), seed, kind.limits) if len(scores) > 1 else None
    floor, baseline = (None if one is None or not np.isfinite(one) else one for one in others)
    return measure(value=value, interval=interval, floor=floor, baseline=baseline)


def _area_ratio(
    name: str,
    shown: NDArray[np.float64],
    held: NDArray[np.float64],
    trained: NDArray[np.float64],
    count: int,
    seed: int,
) -> Measure:
    """Of areas that are found in synthetic images, (1,), and in those of held-out subjects; the floor: in training."""
    measure, held = partial(Measure, name, unit="", direction="near", n=count, target=1.0), held[np.isfinite(held)]
    if not held.any() or not np.isfinite(shown).all():
        return measure(value=None, note="it is found in no held-out image, or no synthetic one has labels")
    ratio, floor = (float(size[0] / held.mean()) for size in (shown, trained))
    replicates = lambda draws: shown / np.maximum(draws @ held / draws.sum(axis=1), 1e-9)  # noqa: E731
    interval = bootstrap_interval(ratio, replicates, len(held), seed, (0.0, np.inf)) if len(held) > 1 else None
    return measure(value=ratio, interval=interval, floor=floor)
