from __future__ import annotations

import pytest
import torch

from medsynth.nn.components import PrincipalComponents


@pytest.fixture
def images() -> torch.Tensor:
    """Of three patterns in random amounts around a mean."""
    torch.manual_seed(0)
    patterns = torch.linalg.qr(torch.randn(64, 3))[0]
    amounts = torch.randn(200, 3) * torch.tensor([3.0, 1.0, 0.3])
    return (0.5 + amounts @ patterns.T).view(200, 1, 8, 8)


def test_scores_are_white_and_give_the_images_back(images):
    components = PrincipalComponents(8, 5)
    components.fit(images)
    scores = components.scores(images)
    assert scores.mean(dim=0).abs().max() < 1e-4
    used = scores[:, :3]
    torch.testing.assert_close(used.T @ used / len(used), torch.eye(3), atol=1e-3, rtol=0)
    assert (scores[:, 3:] == 0).all()  # three patterns make three components
    torch.testing.assert_close(components.images(scores), images, atol=1e-3, rtol=0)


def test_missed_is_the_share_of_the_variance(images):
    components = PrincipalComponents(8, 3)
    components.fit(images)
    scores = components.scores(images)
    assert components.missed(images, scores) < 1e-6
    assert components.missed(images, torch.zeros_like(scores)) == pytest.approx(1, abs=1e-3)
    only_first = scores * torch.tensor([1.0, 0.0, 0.0])
    variances = components.scale.square()
    assert components.missed(images, only_first) == pytest.approx(
        float(variances[1:].sum() / variances.sum()), rel=1e-3
    )


def test_larger_images_are_averaged(images):
    components = PrincipalComponents(4, 2)
    components.fit(images)
    assert components.images(torch.zeros(2, 2)).shape == (2, 1, 4, 4)
    assert components.scores(images).shape == (200, 2)
