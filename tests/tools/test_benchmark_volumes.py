from __future__ import annotations

import pytest
import torch


@pytest.fixture
def volumes(benchmark):
    return benchmark("volumes")


def test_both_networks_map_bands_to_bands_and_a_step_teaches_them(volumes):
    torch.manual_seed(0)
    flow = volumes.LatentFlow(volumes.COARSE_BANDS, (2, 4, 2), [32, 32], 0.0, 0, False)
    peer = volumes.monai_unet([32, 32])
    maps, time = torch.randn(2, volumes.COARSE_BANDS, 2, 4, 2), torch.tensor([0.2, 0.7])
    for network, predict in ((flow, volumes.ours(flow)), (peer, peer)):
        assert predict(maps, time).shape == maps.shape
        before = [weight.clone() for weight in network.parameters()]
        step = volumes.training_step(network, predict, (2, 4, 2))
        step()
        step()
        changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert any(changed)
