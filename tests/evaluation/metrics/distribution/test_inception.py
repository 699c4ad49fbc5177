from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.distances import frechet_distance
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.inception import inception_distance


class FourMeans(nn.Module):
    """Means of the quarters of an image, as a stand-in for features."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        means = nn.functional.adaptive_avg_pool2d(images[:, :1].float(), 2).flatten(1)
        return means if return_features else means[:, :1]


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return [ImageSet(rng.random((40, 16, 16), dtype=np.float32) * width) for width in (1.0, 1.0, 0.5)]


def test_the_distance_is_that_of_the_given_network_s_features_of_bytes(sets, tmp_path):
    torch.jit.script(FourMeans()).save(tmp_path / "net.pt")
    measure = inception_distance(tmp_path / "net.pt", *sets, seed=0)
    train, real, fake = (np.round(s.images * 255).reshape(40, 2, 8, 2, 8).mean((2, 4)).reshape(40, 4) for s in sets)
    assert measure.value == pytest.approx(frechet_distance(real, fake), rel=1e-4)
    assert measure.floor == pytest.approx(frechet_distance(real, train), rel=1e-4)
    assert measure.value > 10 * measure.floor


def test_what_is_no_network_is_told_in_one_line(sets, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(MedsynthError, match="net.pt cannot be used"):
        inception_distance(tmp_path / "net.pt", *sets, seed=0)
