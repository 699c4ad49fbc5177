"""Utility of synthetic images for training: a small network trained on them is tested on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.classifier import fit, predict
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.replicates import Replicates

LEAST = 20  # images of a class, or with a position
NOISE = 0.05  # that the denoiser removes, of full scale
DENOISER_STEPS, DENOISER_BATCH, DENOISER_WIDTH = 200, 16, 24


@dataclass(frozen=True)
class Task:
    """Something to learn from images.

    Attributes:
        about: what is learned and how it is scored, for a note.
        unit: of the score; higher is better.
        learn: (images, seed) -> a function that predicts from (N, H, W).
        score: (what was predicted, the test set, weights of its images) -> the score; NaN where there is none.
        noise: deviation of what is added to the images that are tested.
    """

    about: str
    unit: str
    learn: Callable[[ImageSet, int], Callable[[NDArray[np.float32]], NDArray]]
    score: Callable[[NDArray, ImageSet, NDArray[np.float64]], float]
    noise: float = 0.0


def choose_task(train: ImageSet, held_out: ImageSet, synthetic: ImageSet) -> Task:
    """The class, if all sets have two or more; else the slice position; else denoising, which needs neither."""
    sets = (train, held_out, synthetic)
    shared = [label for label in train.classes if min((images.labels == label).sum() for images in sets) >= LEAST]
    if len(shared) >= 2:
        return _class_task(shared)
    if min(np.isfinite(images.positions).sum() for images in sets) >= LEAST:
        return _position_task()
    return Task(f"denoising (noise {NOISE}), PSNR", "dB", _learn_denoising, _denoising_score, NOISE)


def train_and_test(
    task: Task, train: ImageSet, test: ImageSet, seed: int, units: NDArray[np.int64]
) -> tuple[float, Replicates]:
    """The score on real images of a network trained on `train`, and how it changes with the subjects tested.

    Args:
        units: (test images,) what a bootstrap draws as one.
    """
    noise = np.random.default_rng(seed).standard_normal(test.images.shape, dtype=np.float32)
    predicted = task.learn(train, seed)(test.images + task.noise * noise)
    score = task.score(predicted, test, np.ones(len(test)))
    return score, lambda draws: np.array([task.score(predicted, test, draw[units]) for draw in draws])


def join(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets as one."""
    columns = ("images", "subjects", "labels", "positions")
    return ImageSet(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns))


def _class_task(classes: list[str]) -> Task:
    codes = {label: code for code, label in enumerate(classes)}

    def learn(images: ImageSet, seed: int) -> Callable:
        known = np.flatnonzero(np.isin(images.labels, classes))
        targets = torch.tensor([codes[label] for label in images.labels[known]])
        network = fit(images.images[known], targets, F.cross_entropy, seed, groups=targets)
        return lambda tested: predict(network, tested)

    def score(predicted: NDArray, test: ImageSet, weights: NDArray) -> float:
        known = np.isin(test.labels, classes) & (weights > 0)
        targets = np.array([codes[label] for label in test.labels[known]])
        logits = predicted[known]
        pairs = [(a, b) for a in range(len(classes)) for b in range(a) if {a, b} <= set(targets.tolist())]
        if not pairs:
            return float("nan")
        found = []
        for a, b in pairs:
            both = np.isin(targets, (a, b))
            margin = logits[both, a] - logits[both, b]
            found.append(roc_auc_score(targets[both] == a, margin, sample_weight=weights[known][both]))
        return float(np.mean(found))

    return Task(f"class ({', '.join(classes)}), mean ROC AUC of pairs", "AUC", learn, score)


def _position_task() -> Task:
    def learn(images: ImageSet, seed: int) -> Callable:
        known = np.isfinite(images.positions)
        if known.sum() < LEAST:
            raise CannotMeasure(f"{known.sum()} images with a position, needs {LEAST}")
        targets = torch.from_numpy(images.positions[known]).float()[:, None]
        network = fit(images.images[known], targets, F.mse_loss, seed)
        return lambda tested: predict(network, tested)[:, 0]

    def score(predicted: NDArray, test: ImageSet, weights: NDArray) -> float:
        known = np.isfinite(test.positions)
        return float(r2_score(test.positions[known], predicted[known], sample_weight=weights[known]))

    return Task("slice position, share of its variance explained (R2)", "R2", learn, score)


def _learn_denoising(images: ImageSet, seed: int) -> Callable:
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    width = DENOISER_WIDTH
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    clean = torch.from_numpy(images.images)[:, None]
    for _ in range(DENOISER_STEPS):
        some = clean[torch.randint(len(clean), (DENOISER_BATCH,), generator=random)]
        noise = NOISE * torch.randn(some.shape, generator=random)
        loss = F.mse_loss(network(some + noise), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def denoise(noisy: NDArray[np.float32]) -> NDArray:
        parts: list[Tensor] = [some - network(some) for some in torch.from_numpy(noisy)[:, None].split(64)]
        return torch.cat(parts)[:, 0].numpy()

    return denoise


def _denoising_score(predicted: NDArray, test: ImageSet, weights: NDArray) -> float:
    errors = ((predicted - test.images) ** 2).mean((1, 2), dtype=np.float64)
    return float(-10 * np.log10(np.average(errors, weights=weights)))
