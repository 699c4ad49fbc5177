from __future__ import annotations

import pytest
import torch
from torch import nn

from medsynth.errors import MedsynthError
from medsynth.models.volumes import network as volumes_network
from medsynth.models.volumes.network import VolumeFlow, band_grids

SIZE = (32, 32, 40)


@pytest.fixture
def network() -> VolumeFlow:
    torch.manual_seed(0)
    made = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, num_classes=2, covariates=("age",)).eval()
    count = 6
    made.fit(
        torch.randn(count, 1, *SIZE).clamp(-1, 1),
        torch.arange(count) % 2,
        torch.full((count,), torch.nan),
        torch.arange(30.0, 30 + count)[:, None],
    )
    for level in made.levels:
        nn.init.normal_(level.network.head.weight, std=0.1)
        for block in level.network.middle:  # which start without minding the conditions
            nn.init.normal_(block.scale_shift.weight)
            nn.init.normal_(block.conv2.weight, std=0.05)
    return made


def facts(count: int) -> tuple[torch.Tensor, ...]:
    return torch.zeros(count, dtype=torch.int64), torch.full((count,), torch.nan), torch.full((count, 1), 32.0)


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((16, 16, 16), [(8, 8, 8)]),
        ((40, 56, 48), [(10, 14, 12), (20, 28, 24)]),
        ((96, 112, 96), [(12, 14, 12), (24, 28, 24), (48, 56, 48)]),
        ((256, 256, 256), [(16, 16, 16), (32, 32, 32), (64, 64, 64), (128, 128, 128)]),
    ],
)
def test_a_level_comes_with_each_doubling_of_the_grid(size, grids):
    assert band_grids(size) == grids


def test_a_size_that_cannot_be_halved_so_often_is_refused_with_the_nearest():
    with pytest.raises(MedsynthError, match=r"multiple of 16: set --size '\[96, 112, 96\]'"):
        band_grids((96, 112, 104 - 8 + 1))


def test_bands_lose_nothing(network):
    image = torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(network(image), image)


def test_a_pyramid_gives_each_level_the_coarser_volume_and_its_places(network):
    (coarse, nothing), (detail, given) = network.pyramid(torch.randn(2, 1, *SIZE))
    assert nothing is None
    assert coarse.shape == (2, 8, 8, 8, 10)
    assert detail.shape == (2, 7, 16, 16, 20)
    assert given.shape == (2, 4, 16, 16, 20)
    assert given[0, 3, 0, 0].tolist() == pytest.approx(torch.linspace(-1, 1, 20).tolist())


def test_finer_levels_learn_from_the_same_box_of_bands_and_of_what_is_given(network):
    image = torch.rand(1, 1, *SIZE)
    whole = network.pyramid(image)
    coarse, (detail, given) = network.cropped(whole)
    assert coarse is whole[0]
    assert detail.shape[2:] == given.shape[2:] == (8, 8, 10)
    x, y, z = (int(((place + 1) / 2 * (length - 1)).round()) for place, length in
               zip(given[0, 1:, 0, 0, 0], (16, 16, 20), strict=True))  # fmt: skip
    torch.testing.assert_close(detail, whole[1][0][:, :, x : x + 8, y : y + 8, z : z + 10])


def test_the_loss_of_flows_that_say_nothing_is_about_1_on_each_level():
    torch.manual_seed(0)
    network = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, 0, ())
    images = torch.randn(8, 1, *SIZE)
    network.fit(images, torch.full((8,), -1), torch.full((8,), torch.nan), torch.empty(8, 0))
    pyramids = [network.cropped(network.pyramid(image[None])) for image in images]
    unknown = torch.full((8,), -1), torch.full((8,), torch.nan), torch.empty(8, 0)
    found = network.losses(pyramids, torch.zeros(8, 12), *unknown)
    assert list(found) == ["level_0", "level_1"]
    assert all(0.9 < loss < 1.1 for loss in found.values())


def test_the_same_seed_gives_the_same_volumes_and_the_conditions_that_were_asked_for(network):
    first, labels, positions, covariates = network.sample(2, 3, label=1, covariates={"age": 33}, steps=1)
    again = network.sample(2, 3, label=1, covariates={"age": 33}, steps=1)[0]
    assert first.shape == (2, 1, *SIZE)
    assert torch.equal(first, again)
    assert not torch.equal(first, network.sample(2, 4, label=1, covariates={"age": 33}, steps=1)[0])
    assert labels.tolist() == [1, 1]
    assert positions.isnan().all()
    assert covariates.tolist() == [[33], [33]]


def test_a_volume_comes_back_from_its_noise_under_its_own_conditions(network):
    image = torch.rand(1, 1, *SIZE) - 0.5
    noise = network.invert(image, facts(1), steps=24)
    back = network.draw(noise, facts(1), steps=24)
    assert (back - image).abs().mean() < 0.02
    other = network.draw(noise, (torch.ones(1, dtype=torch.int64), *facts(1)[1:]), steps=24)
    assert (other - image).abs().mean() > 2 * (back - image).abs().mean()


def test_what_is_known_comes_out_as_it_is_and_the_rest_is_drawn(network):
    image = torch.rand(1, 1, *SIZE) - 0.5
    where = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    where[:, :, 8:16, 8:16, 8:16] = False
    noise = network.noise(1, torch.Generator().manual_seed(0))
    found = network.draw(noise, facts(1), steps=2, known=(image, where))
    torch.testing.assert_close(found[where], image[where], atol=1e-4, rtol=0)
    assert (found[~where] - image[~where]).abs().mean() > 0.1


@pytest.fixture
def told() -> VolumeFlow:
    """A flow to which label maps of 3 classes matter."""
    torch.manual_seed(0)
    made = VolumeFlow(SIZE, [32, 32], [32, 32], 0.0, 2, ("age",), segmentation_classes=3).eval()
    made.fit(torch.randn(6, 1, *SIZE).clamp(-1, 1), torch.arange(6) % 2, *facts(6)[1:])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def test_each_level_is_told_the_classes_of_the_voxels_that_it_makes(told):
    segmentation = torch.zeros(1, 1, *SIZE)
    segmentation[0, 0, 5, 2, 8] = 2  # of the finest level, place (2, 1, 4), its part (1, 0, 0)
    coarse, fine = told.at_levels(segmentation)
    assert coarse.shape == (1, 25, 8, 8, 10)
    assert fine.shape == (1, 25, 16, 16, 20)
    assert fine[0, 16:24, 2, 1, 4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert fine[0, :8, 2, 1, 4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert coarse[0, 16:24, 1, 0, 2].tolist() == [0, 0, 1 / 8, 0, 0, 0, 0, 0]  # voxel (2, 1, 4): part (0, 1, 0)
    assert (coarse[0, 24] == 1).all()
    assert fine[0, 16:24].sum() == coarse[0, 16:24].sum() * 8 == 1


def test_finer_levels_learn_from_the_map_of_their_box(told):
    segmentation = torch.randint(3, (1, 1, *SIZE))
    whole = told.pyramid(torch.rand(1, 1, *SIZE), segmentation)
    (_, coarse), (_, given) = told.cropped(whole)
    assert torch.equal(coarse, told.at_levels(segmentation)[0])
    x, y, z = (int(((place + 1) / 2 * (length - 1)).round()) for place, length in
               zip(given[0, 1:4, 0, 0, 0], (16, 16, 20), strict=True))  # fmt: skip
    assert torch.equal(given[:, 4:], told.at_levels(segmentation)[1][:, :, x : x + 8, y : y + 8, z : z + 10])


def test_a_share_of_the_volumes_learns_without_label_maps_and_some_without_anything(told, monkeypatch):
    seen = []
    monkeypatch.setattr(volumes_network, "flow_loss", lambda *_, given: seen.append(given) or torch.zeros(1))
    label, count = [], 3000
    for level in told.levels:
        monkeypatch.setattr(level, "embed", lambda *own: label.append(own[0]))
    pyramids = [told.cropped(told.pyramid(torch.zeros(1, 1, *SIZE), torch.ones(1, 1, *SIZE)))]
    small = [tuple(part[..., :1, :1, :1] for part in parts) for parts in pyramids[0]]
    told.losses([small] * count, torch.zeros(count, 12), torch.ones(count).long(), *facts(count)[1:])
    without = [given[:, -25:].flatten(1).abs().sum(dim=1) == 0 for given in seen]
    assert torch.equal(*without)
    assert (seen[1][:, 1] == seen[1][0, 1]).all()  # their places are known
    assert without[0].float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (without[0] & (label[0] < 0)).float().mean().item() == pytest.approx(0.05, abs=0.02)


def test_no_label_map_differs_from_an_empty_one_and_guidance_0_ignores_it(told):
    noise, empty = told.noise(1, torch.Generator().manual_seed(0)), torch.zeros(1, 1, *SIZE)
    unknown = torch.tensor([-1]), torch.tensor([torch.nan]), torch.tensor([[torch.nan]])
    without = told.draw(noise, facts(1), steps=2)
    assert not torch.allclose(told.draw(noise, facts(1), steps=2, segmentation=empty), without, atol=1e-3)
    ignored = told.draw(noise, facts(1), steps=2, guidance=0.0, segmentation=empty)
    torch.testing.assert_close(ignored, told.draw(noise, unknown, steps=2), atol=1e-4, rtol=0)


def test_a_label_map_changes_detail_near_it_alone(told):
    """The detail of a level depends on the map in the reach of its convolutions; the coarse volume on all of it."""
    level, noise = told.levels[1], told.noise(1, torch.Generator().manual_seed(0))[1]
    one, other = torch.zeros(1, 1, *SIZE), torch.zeros(1, 1, *SIZE)
    other[:, :, 0, 0, 0] = 1
    made = []
    for segmentation in (one, other):
        beside = volumes_network.given(torch.zeros(1, 1, 16, 16, 20), told.at_levels(segmentation)[1])
        with torch.no_grad():
            made.append(level(noise, torch.tensor([0.5]), level.embed(*facts(1), noise), given=beside))
    changed = (made[0] - made[1]).abs().sum(dim=1)[0]
    assert changed[0, 0, 0] > 0.01
    assert changed[:, :, 19].max() < 0.01 * changed[0, 0, 0]
