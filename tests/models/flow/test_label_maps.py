from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.models.flow import learning
from medsynth.models.flow.label_maps import at_latents, channels_of, moved_shares, one_hot
from medsynth.models.flow.learning import moved, random_grids, training_loss
from medsynth.models.flow.network import LatentFlow


@pytest.fixture
def flow() -> LatentFlow:
    """A flow to which label maps of 2 classes matter."""
    torch.manual_seed(0)
    flow = LatentFlow(3, 4, [32, 32], 0.0, 2, given_channels=channels_of(2), map_channels=channels_of(2)).eval()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    flow.fit(torch.randn(50, 3, 4, 4), torch.arange(50) % 2, torch.rand(50), torch.empty(50, 0))
    return flow


def maps(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return at_latents(one_hot(torch.randint(2, (count, 1, 16, 16), generator=random), 2), 4)


def test_a_place_is_told_the_shares_of_each_class_in_its_quarters():
    indices = torch.zeros(1, 1, 8, 4)
    indices[0, 0, 0, 1] = 1  # a quarter of the upper left quarter of the upper place
    indices[0, 0, 6:, 2:] = 2  # the lower right quarter of the lower one
    found = at_latents(one_hot(indices, 3), 4)
    assert found.shape == (1, channels_of(3), 2, 1)
    upper, lower = found[0, :, 0, 0], found[0, :, 1, 0]
    assert upper.tolist() == [0.75, 1, 1, 1, 0.25, 0, 0, 0, 0, 0, 0, 0, 1]
    assert lower.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert channels_of(0) == channels_of(0, axes=3) == 0


def test_a_place_of_a_volume_is_told_the_shares_in_its_eight_parts():
    indices = torch.zeros(1, 1, 8, 4, 4)
    indices[0, 0, 0, 1, 0] = 1  # one of eight voxels of the first part of the first place
    indices[0, 0, 6:, 2:, :2] = 2  # the part of the second that is last along two axes and first along the third
    found = at_latents(one_hot(indices, 3), 4)
    assert found.shape == (1, channels_of(3, axes=3), 2, 1, 1)
    first, second = found[0, :, 0, 0, 0], found[0, :, 1, 0, 0]
    assert first[:8].tolist() == [0.875, 1, 1, 1, 1, 1, 1, 1]
    assert first[8:].tolist() == [0.125] + 15 * [0] + [1]
    assert second[16:24].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_label_maps_are_augmented_as_their_images_are():
    torch.manual_seed(0)
    inside = F.interpolate(torch.rand(40, 1, 6, 6), 48, mode="bicubic") > 0.6
    inside[:, :, :4] = inside[:, :, -4:] = False
    inside[..., :4] = inside[..., -4:] = False
    shares = one_hot(inside, 2)
    grid, numbers = random_grids(40, (48, 48), "cpu")
    images, labels = moved(2 * inside.float() - 1, grid, numbers), moved_shares(shares, grid)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(40, 48, 48))
    is_in = labels[:, 1:] > 0.5
    clear = (labels[:, 1:] - 0.5).abs() > 0.3  # on borders, bicubic and linear interpolation differ
    assert torch.equal((images > 0)[clear], is_in[clear])
    assert (labels[:, 1:] - inside.float()).abs().mean() > 0.05
    unmoved = ~numbers.any(dim=1)
    torch.testing.assert_close(labels[unmoved], shares[unmoved])


def test_a_share_of_the_images_learns_without_label_maps_and_some_without_anything(flow, monkeypatch):
    seen = {}
    monkeypatch.setattr(learning, "flow_loss", lambda *_, given: seen.update(given=given) or torch.zeros(1))
    embed = flow.embed
    monkeypatch.setattr(flow, "embed", lambda label, *rest: seen.update(label=label) or embed(label, *rest))
    count = 4000
    facts = {"label": torch.ones(count).long(), "position": torch.rand(count), "covariates": torch.empty(count, 0)}
    training_loss(flow, torch.randn(count, 3, 4, 4), torch.zeros(count, 6), facts, maps(count))
    without_map, without_facts = seen["given"].abs().sum(dim=(1, 2, 3)) == 0, seen["label"] < 0
    assert without_map.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (without_map & without_facts).float().mean().item() == pytest.approx(0.05, abs=0.02)
    assert (~without_map & without_facts).float().mean().item() == pytest.approx(0.05, abs=0.02)


def test_no_label_map_is_one_of_zeros_and_guidance_0_ignores_it(flow):
    noise, facts = torch.randn(2, 3, 4, 4), (torch.ones(2).long(), torch.rand(2), torch.empty(2, 0))
    with_map = flow.travel(noise, *facts, steps=2, given=maps(2))
    without = flow.travel(noise, *facts, steps=2)
    assert torch.equal(flow.travel(noise, *facts, steps=2, given=torch.zeros_like(maps(2))), without)
    assert not torch.allclose(with_map, without, atol=1e-3)
    ignored = flow.travel(noise, *facts, steps=2, guidance=0.0, given=maps(2))
    torch.testing.assert_close(ignored, flow.travel(noise, None, None, None, steps=2), atol=1e-4, rtol=0)
    stronger = flow.travel(noise, *facts, steps=2, guidance=2.0, given=maps(2))
    assert (stronger - ignored).abs().mean() > (with_map - ignored).abs().mean()
