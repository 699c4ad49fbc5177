from __future__ import annotations

import pytest
import torch


@pytest.fixture
def vqvae(benchmark):
    return benchmark("vqvae")


def test_both_steps_train_as_many_parameters(vqvae):
    layers = {"channels": [8, 16], "residual_layers": 1}
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    counts = []
    for build in (lambda: vqvae.bundle_step(32, 4, 0, layers, amp=False), lambda: vqvae.monai_step(32, 4, 0, layers)):
        step, (network,), precision = build()
        before = [parameter.detach().clone() for parameter in network.encoder.parameters()]
        step(images)
        assert precision == "float32"
        changed = zip(network.encoder.parameters(), before, strict=True)
        assert any(not torch.equal(new, old) for new, old in changed)
        counts.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    assert counts[0] == counts[1]


def test_our_step_updates_the_codebook(vqvae):
    step, (network,), _ = vqvae.bundle_step(32, 4, 0, {"channels": [8, 16], "residual_layers": 1}, amp=False)
    before = network.codebook.codes.clone()
    step(torch.rand(4, 1, 32, 32))
    assert network.codebook.usage.sum() == 4 * 8 * 8
    assert not torch.equal(network.codebook.codes, before)
