from __future__ import annotations

import pytest
import torch


@pytest.fixture
def priors(benchmark):
    return benchmark("priors")


def test_the_peer_draws_images_of_the_same_size_from_a_transformer_of_the_same_sizes(priors):
    torch.manual_seed(0)
    stage_one = {"image_size": 16, "channels": [8, 16], "residual_layers": 1, "num_codes": 20, "code_features": 8}
    gan = priors.CodeGan(stage_one | {"cosine": False}, 16, 8, 0, True)
    images = priors.monai_sampling(gan, {"features": 16, "layers": 1, "heads": 2})()
    assert images.shape == gan.sample(priors.MONAI_IMAGES, seed=0)[0].shape


def test_rates_are_images_over_the_least_of_the_turns(priors, monkeypatch):
    monkeypatch.setattr(priors, "cpu_seconds", lambda draw, turns: 0.5)
    assert priors.images_per_cpu_second(lambda: None, 8) == 16
