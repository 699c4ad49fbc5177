from __future__ import annotations

import pytest
import torch

from medsynth.data.preprocessing.volume_grid import VolumePreprocessing
from medsynth.models.volumes.network import VolumeFlow
from medsynth.models.volumes.quality import HeldOutVolumeLoss, untaught_loss

SIZE = (16, 16, 16)


def test_a_flow_without_knowledge_loses_1_of_bands_of_deviation_1_and_less_of_weaker_ones():
    assert untaught_loss(torch.ones(3)) == pytest.approx(1)
    assert untaught_loss(torch.tensor([1.0, 0.0])) == pytest.approx(0.5)


def test_the_loss_of_the_best_linear_guess_is_the_one_that_the_formula_gives():
    """Least squares of the target on the mixture, over many draws at many times."""
    torch.manual_seed(0)
    time = torch.randn(400_000).sigmoid()
    latents, noise = 0.4 * torch.randn(400_000), torch.randn(400_000)
    root = (time**2 + (1 - time) ** 2).sqrt()
    target, mixture = ((1 - time) * latents - time * noise) / root, time * latents + (1 - time) * noise
    slope = (time * (1 - time) * (0.4**2 - 1)) / root / (time**2 * 0.4**2 + (1 - time) ** 2)
    assert untaught_loss(torch.tensor([0.4])) == pytest.approx(
        (target - slope * mixture).square().mean().item(), rel=0.01
    )


def test_a_generator_that_has_learned_nothing_scores_about_1_and_the_same_twice():
    torch.manual_seed(0)
    network = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, 0, ()).eval()
    images = torch.randn(8, 1, *SIZE)
    unknown = torch.full((8,), -1), torch.full((8,), torch.nan), torch.empty(8, 0)
    network.fit(images, *unknown)
    grid = VolumePreprocessing("mri", None, (4.0, 4.0, 4.0), SIZE, region="head", finer=1)
    batch = dict(zip(("label", "position", "covariates"), unknown, strict=True)) | {"image": images}
    scores = []
    for _ in range(2):
        metric = HeldOutVolumeLoss(network, grid)
        metric.update((batch, images, images))
        scores.append(metric.compute())
    assert scores[0] == scores[1]
    assert 0.9 < scores[0] < 1.2
