"""A small convolutional network for quick judgements: real or synthetic, which class, which position."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

Images = NDArray[np.float32]

STEPS = 200
BATCH = 48
WIDTH = 16


class C2st(NamedTuple):
    """The result of a classifier of synthetic (1) against real (0) images: AUC 0.5 at chance, 1 if it is always right.

    Attributes:
        auc: area under the ROC curve.
        f1: of "synthetic" at probability 0.5, both kinds counted equally.
        real_scores, fake_scores: logits of the images it was tested on.
    """

    auc: float
    f1: float
    real_scores: NDArray[np.float64]
    fake_scores: NDArray[np.float64]


def c2st(real: Images, fake: Images, test_real: Images, test_fake: Images, seed: int) -> C2st:
    """Classifier two-sample test: train on `real` and `fake`, test on images (and subjects) it has not seen.

    Reference: Lopez-Paz and Oquab, Revisiting classifier two-sample tests, arXiv:1610.06545.
    """
    images = np.concatenate([real, fake])
    is_fake = torch.arange(len(images)) >= len(real)
    network = fit(images, is_fake.float()[:, None], F.binary_cross_entropy_with_logits, seed, groups=is_fake.long())
    scores = [predict(network, some)[:, 0] for some in (test_real, test_fake)]
    truth = np.repeat([0, 1], [len(test_real), len(test_fake)])
    weight = np.repeat([1 / len(test_real), 1 / len(test_fake)], [len(test_real), len(test_fake)])
    both = np.concatenate(scores)
    return C2st(roc_auc_score(truth, both), f1_score(truth, both > 0, sample_weight=weight), *scores)


def fit(
    images: Images,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    groups: Tensor | None = None,
) -> nn.Module:
    """Train a network on images, flipped and shifted by up to 2 pixels at random.

    Args:
        images: (N, H, W) in [0, 1].
        targets: (N, outputs) for the loss, or (N,) class indices.
        loss: of (batch, outputs) and a batch of targets.
        seed: of weights and batches.
        groups: (N,) indices; batches hold as many of each group.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    outputs = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    network = small_network(outputs).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)  # or the last steps, and so the seed, decide
    inputs = torch.from_numpy(images)[:, None]
    groups = torch.zeros(len(images), dtype=torch.long) if groups is None else groups
    chance = 1 / torch.bincount(groups)[groups].float()
    for _ in range(STEPS):
        some = torch.multinomial(chance, BATCH, replacement=True, generator=random)
        batch = inputs[some]
        flipped = torch.rand(BATCH, 1, 1, 1, generator=random) < 0.5
        batch = torch.where(flipped, batch.flip(3), batch)
        shift = torch.randint(-2, 3, (2,), generator=random).tolist()
        found = loss(network(batch.roll(shift, (2, 3))), targets[some])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, images: Images) -> NDArray[np.float64]:
    """(N, H, W) -> (N, outputs)."""
    return torch.cat([network(some) for some in torch.from_numpy(images)[:, None].split(256)]).double().numpy()


def small_network(outputs: int) -> nn.Sequential:
    """Three strided convolutions, and a linear layer on a grid of 4 x 4, which preserves coarse locations."""
    layers: list[nn.Module] = []
    for inner, outer in ((1, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, 3 * WIDTH)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.LeakyReLU(0.1)]
    output = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(3 * WIDTH * 16, outputs)]
    return nn.Sequential(*layers, *output)
