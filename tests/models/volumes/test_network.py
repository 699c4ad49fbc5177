from __future__ import annotations

import pytest
import torch
from torch import nn

from medsynth.errors import MedsynthError
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
