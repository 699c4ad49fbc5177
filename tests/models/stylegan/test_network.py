from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medsynth.errors import MedsynthError
from medsynth.models.stylegan.network import StyleGan
from medsynth.nn.progressive import resolutions_up_to
from medsynth.nn.stylegan_discriminator import StyleGanDiscriminator

SHARED = {"image_size": 32, "channels": 4, "num_classes": 2, "use_position": True, "architecture": "progressive"}
SMALL = SHARED | {"group": 4}
GENERATOR = SHARED | {"latent_features": 8, "style_features": 8, "mapping_layers": 2}


@pytest.fixture
def told():
    torch.manual_seed(0)
    return torch.randn(4, 8), torch.tensor([0, 1, -1, 0]), torch.tensor([0.1, 0.5, float("nan"), 1.0])


def trained(network):
    """Biases and noise strengths are not 0 after training."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "strength")):
                parameter.normal_()
    return network


@pytest.mark.parametrize("image_size", [48, 8, 0, 100])
def test_a_size_that_is_no_power_of_two_times_four_is_refused(image_size):
    for network, arguments in ((StyleGan, GENERATOR), (StyleGanDiscriminator, SMALL)):
        with pytest.raises(MedsynthError, match=f"image_size {image_size}: this network needs 4 times a power of two"):
            network(**arguments | {"image_size": image_size})


def test_an_unknown_architecture_is_refused_with_those_there_are():
    with pytest.raises(MedsynthError, match="'residual': choose one of progressive, skip"):
        StyleGan(**GENERATOR | {"architecture": "residual"})


@pytest.mark.parametrize(("resolution", "coarse"), [(16, 8), (32, 16)])
def test_nothing_changes_when_a_fade_begins(told, resolution, coarse):
    torch.manual_seed(1)
    network, discriminator = trained(StyleGan(**GENERATOR)), trained(StyleGanDiscriminator(**SMALL))
    style = network.spread(network.mapping(*told))
    network.grow_to(coarse, 1.0)
    before = network.synthesis.draw(style, noise="fixed")
    whole = network.synthesis(style, noise="fixed")
    discriminator.grow_to(coarse, 1.0)
    score = discriminator(before, *told[1:])

    network.grow_to(resolution, 0.0)
    after = network.synthesis.draw(style, noise="fixed")
    assert torch.allclose(F.interpolate(before, scale_factor=2, mode="nearest"), after, atol=1e-5)
    assert torch.allclose(whole, network.synthesis(style, noise="fixed"), atol=1e-5)
    discriminator.grow_to(resolution, 0.0)
    assert torch.allclose(score, discriminator(after, *told[1:]), atol=1e-5)


def test_a_fade_is_a_straight_line_from_the_coarse_image_to_the_fine_one(told):
    network = trained(StyleGan(**GENERATOR))
    style, images = network.spread(network.mapping(*told)), []
    for alpha in (0.0, 0.25, 1.0):
        network.grow_to(32, alpha)
        images.append(network.synthesis.draw(style, noise="none"))
    assert torch.allclose(images[1], 0.75 * images[0] + 0.25 * images[2], atol=1e-5)
    assert not torch.allclose(images[0], images[2], atol=0.1)


@pytest.mark.parametrize("architecture", ["progressive", "skip"])
def test_images_are_of_the_full_size_at_every_resolution(told, architecture):
    network = StyleGan(**GENERATOR | {"architecture": architecture})
    for resolution in resolutions_up_to(32):
        network.grow_to(resolution, 0.5)
        assert network(*told).shape == (4, 1, 32, 32)
        style = network.spread(network.mapping(*told))
        assert network.synthesis.draw(style).shape == (4, 1, resolution, resolution)


@pytest.mark.parametrize("architecture", ["progressive", "skip"])
def test_whole_networks_train_in_every_part(told, architecture):
    network = trained(StyleGan(**GENERATOR | {"architecture": architecture}))
    discriminator = trained(StyleGanDiscriminator(**SMALL | {"architecture": architecture}))
    for part in (network, discriminator):
        part.grow_to(32, 0.5)
    image = network.synthesis.draw(network.spread(network.mapping(*told)))
    discriminator(image, *told[1:]).square().sum().backward()
    idle = {
        name
        for part in (network, discriminator)
        for name, parameter in part.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    coarse = {f"{name}.0.conv.{kind}" for name in ("synthesis.to_image", "from_image") for kind in ("weight", "bias")}
    assert idle == (coarse if architecture == "progressive" else set())


def test_a_layer_s_style_reaches_nothing_before_it(told):
    network = trained(StyleGan(**GENERATOR))
    network.grow_to(32, 0.0)  # what is seen is of 16 pixels a side: layers 0 to 3
    style = network.spread(network.mapping(*told)).clone()
    before = network.synthesis.draw(style, noise="none")
    style[:, 4:] = 7.0
    assert torch.equal(before, network.synthesis.draw(style, noise="none"))
    style[:, 3] = 7.0
    assert not torch.allclose(before, network.synthesis.draw(style, noise="none"), atol=1e-2)


def test_noise_is_random_fixed_or_none(told):
    network = trained(StyleGan(**GENERATOR))
    style = network.spread(network.mapping(*told))
    for noise, repeats in (("fixed", True), ("none", True), ("random", False)):
        one, other = (network.synthesis(style, noise) for _ in range(2))
        assert torch.equal(one, other) == repeats
    with pytest.raises(ValueError, match="'loud'"):
        network.synthesis(style, "loud")


def test_class_and_position_change_the_style_and_are_judged(told):
    latent, label, position = told
    network, discriminator = StyleGan(**GENERATOR), StyleGanDiscriminator(**SMALL)
    image = network(*told)
    for other in ((1 - label.clamp(min=0), position), (label, 1 - position.nan_to_num())):
        assert (network.mapping(latent, *other) - network.mapping(*told)).abs().amax() > 1e-3
        assert (discriminator(image, *other) - discriminator(image, label, position)).abs().amax() > 1e-4


def test_truncation_goes_to_the_mean_of_the_class(told):
    network = StyleGan(**GENERATOR)
    style, label = torch.randn(4, 8), torch.tensor([0, 1, -1, 0])
    network.style_means.copy_(torch.tensor([1.0, 2.0, 3.0])[:, None].expand(-1, 8))
    means = torch.tensor([1.0, 2.0, 3.0, 1.0])[:, None]
    assert torch.equal(network.truncate(style, 1.0, label), style)
    assert torch.allclose(network.truncate(style, 0.0, label), means.expand(-1, 8))
    assert torch.allclose(network.truncate(style, 0.5, label), (style + means) / 2)
    assert torch.allclose(network.truncate(style, 0.0), torch.full((4, 8), 3.0))


def test_style_means_are_followed_by_class_and_over_all():
    network = StyleGan(**GENERATOR)
    for _ in range(3000):
        network.follow(torch.tensor([1.0, 3.0, 8.0])[:, None].expand(-1, 8), torch.tensor([0, 0, -1]))
    assert network.style_means[:, 0].tolist() == pytest.approx([2, 0, 4], abs=1e-3)


def test_the_same_seed_draws_the_same_images_and_leaves_the_random_state_alone():
    network = StyleGan(**GENERATOR)
    network.conditions.fit(torch.tensor([0, 0, 1]), torch.tensor([0.2, 0.4, 0.6]))
    state = torch.get_rng_state()
    images, labels, positions = network.sample(5, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, network.sample(5, seed=3)[0])
    assert not torch.equal(images, network.sample(5, seed=4)[0])
    assert images.abs().max() <= 1
    assert set(labels.tolist()) <= {0, 1}
    assert ((positions >= 0.2) & (positions <= 0.6)).all()
    assert (network.sample(5, seed=3, label=1)[1] == 1).all()


def test_resolution_and_alpha_travel_with_the_weights():
    network, other = StyleGan(**GENERATOR), StyleGan(**GENERATOR)
    network.grow_to(16, 0.25)
    other.load_state_dict(network.state_dict())
    assert (int(other.resolution), float(other.alpha)) == (16, 0.25)
