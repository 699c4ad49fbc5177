from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA

from medsynth.errors import MedsynthError
from medsynth.models.vaegan.network import StyledUp, VaeGan, VaeGanCritic
from medsynth.nn.blocks import binomial_blur

CHANNELS = 32


def pictures(count: int, size: int = 16) -> torch.Tensor:
    """Smooth images in [-0.7, 0.7] of which a few components tell most, but not all."""
    random = torch.Generator().manual_seed(count)
    waves = torch.randn(12, size * size, generator=random) / 2.0 ** torch.arange(12)[:, None]
    images = torch.randn(count, 12, generator=random) @ waves
    return (0.7 * images / images.abs().max()).view(count, 1, size, size)


def small(num_classes: int = 2, use_position: bool = True, latent_features: int = 4) -> VaeGan:
    torch.manual_seed(0)
    return VaeGan(16, 1, CHANNELS, latent_features, num_classes, use_position, mixture_components=2)


@pytest.fixture(scope="module")
def trained() -> VaeGan:
    """A network whose parts all say something, with a density of classes that differ."""
    network = small()
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    labels = torch.arange(200) % 2
    latents = torch.randn(200, 4) + 2 * labels[:, None]
    network.fit_density(latents, labels, torch.rand(200), 0)
    return network


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_every_size_that_halves_down_to_four_is_reconstructed_and_scored(size):
    image = torch.zeros(2, 1, size, size)
    with torch.no_grad():
        assert VaeGan(size, channels=CHANNELS, latent_features=3)(image).shape == image.shape
        assert VaeGanCritic(size, channels=CHANNELS)(image).shape == (2,)


@pytest.mark.parametrize("size", [1, 4, 8, 15, 48, 65, 100, 192])
@pytest.mark.parametrize("network", [VaeGan, VaeGanCritic])
def test_other_sizes_are_refused_in_one_line_with_one_that_works(network, size):
    with pytest.raises(MedsynthError, match=f"image_size {size}.*set --image_size") as refused:
        network(size)
    assert "\n" not in str(refused.value)
    assert VaeGan(int(str(refused.value).split()[-1]), channels=CHANNELS)


def test_images_of_several_channels_go_through():
    network = VaeGan(16, 3, CHANNELS, 4)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    assert VaeGanCritic(16, 3, CHANNELS)(torch.zeros(2, 3, 16, 16)).shape == (2,)


def test_it_starts_as_principal_component_analysis():
    images = pictures(300)
    network = small()
    network.start_from(images)
    pca = PCA(4).fit(images.flatten(1).numpy())
    coordinates = pca.transform(images.flatten(1).numpy())
    expected = torch.from_numpy(pca.inverse_transform(coordinates)).view_as(images)
    assert (expected - images).abs().max() > 0.01  # something is left to learn
    with torch.no_grad():
        assert network(images) == pytest.approx(expected.clamp(-1, 1), abs=1e-3)
        mean, _ = network.encode(images)
    assert mean.std(dim=0, unbiased=False) == pytest.approx(torch.ones(4), abs=1e-2)
    assert mean.mean(dim=0) == pytest.approx(torch.zeros(4), abs=1e-2)


@pytest.mark.parametrize("correction", [0.0, 0.1, 3])
def test_convolutions_correct_the_mean_within_their_bound(correction):
    network = VaeGan(16, 1, CHANNELS, 4, encoder_correction=correction)
    torch.nn.init.normal_(network.encoder.head.weight, std=0.05)
    images = pictures(300)
    network.start_from(images)
    with torch.no_grad():
        moved = network.encode(images)[0] - network.encoder.linear_part(images)
    assert moved.abs().max() <= correction + 1e-5
    assert moved.abs().max() >= correction / 2


@pytest.mark.parametrize("correction", [-0.1, float("nan"), float("inf"), True, "much"])
def test_a_correction_that_makes_no_sense_is_told(correction):
    with pytest.raises(MedsynthError, match="encoder_correction is .*: give a number from 0"):
        VaeGan(16, encoder_correction=correction)


@pytest.mark.parametrize("setting", ["latent_features", "mixture_components", "kept_components", "mapping_features"])
@pytest.mark.parametrize("value", [-1, 2.5, True, "8"])
def test_counts_that_make_no_sense_are_told(setting, value):
    with pytest.raises(MedsynthError, match=f"{setting} is {value!r}: give a whole number"):
        VaeGan(16, **{setting: value})


def test_above_64_pixels_it_starts_as_principal_components_of_the_averaged_images():
    images = pictures(40, 128)
    network = VaeGan(128, 1, CHANNELS, 12)
    network.start_from(images)
    with torch.no_grad():
        error = torch.nn.functional.avg_pool2d(network(images) - images, 2)
    assert error.square().mean() < 0.05 * images.square().mean() + 0.05 * images.var()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_images_than_latent_features_start_finite(count):
    images = pictures(count)
    network = small()
    network.start_from(images)
    with torch.no_grad():
        assert network(images) == pytest.approx(images, abs=1e-2)


def test_the_mapping_starts_as_the_identity_and_concerns_samples_alone():
    network = VaeGan(16, 1, CHANNELS, 4, noise_injection=False, mapping_features=8)
    for name, parameter in network.named_parameters():
        if not name.startswith("mapping"):
            torch.nn.init.normal_(parameter, std=0.1)
    image, latent = pictures(3), torch.randn(3, 4)
    with torch.no_grad():
        reconstruction, decoded = network(image), network.decode(latent)
        assert torch.equal(network.draw(latent), decoded)
        network.mapping.last.bias.fill_(0.5)
        assert torch.allclose(network.draw(latent), network.decode(latent + 0.5))
        assert torch.equal(network(image), reconstruction)


def test_samples_have_the_network_s_temperature_unless_another_is_asked_for(trained):
    cool = VaeGan(16, 1, CHANNELS, 4, 2, True, mixture_components=2, temperature=0.5)
    cool.load_state_dict(trained.state_dict())
    assert torch.equal(cool.sample(3, 0)[0], trained.sample(3, 0, temperature=0.5)[0])
    assert not torch.equal(cool.sample(3, 0)[0], trained.sample(3, 0)[0])


@pytest.mark.parametrize("temperature", [0, -1.0, 1.1, "hot", True])
def test_a_temperature_that_makes_no_sense_is_told(temperature):
    with pytest.raises(MedsynthError, match="temperature is .*: give a number above 0"):
        VaeGan(16, temperature=temperature)


def test_samples_can_be_made_without_noise():
    network = VaeGan(16, 1, CHANNELS, 4, noise_injection=False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latent = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(network.decode(latent, noise=True), network.decode(latent, noise=True))


def test_noise_is_left_out_of_reconstructions_and_added_to_samples(trained):
    image = pictures(2)
    with torch.no_grad():
        assert torch.equal(trained(image), trained(image))
        latent = trained.encode(image)[0]
        assert torch.equal(trained.decode(latent), trained.decode(latent))
        assert not torch.equal(trained.decode(latent, noise=True), trained.decode(latent, noise=True))


def test_reconstructions_stay_in_range(trained):
    assert trained(50 * pictures(3)).abs().max() <= 1
    assert trained.sample(5, 0)[0].abs().max() <= 1


def test_an_image_is_reconstructed_alike_in_any_batch(trained):
    images, labels, positions = pictures(5), torch.tensor([0, 1, -1, 0, 1]), torch.tensor([0.1, 0.5, 0.9, torch.nan, 1])
    with torch.no_grad():
        together = trained(images, labels, positions)
        alone = torch.cat([trained(*(part[i : i + 1] for part in (images, labels, positions))) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_class_and_position_change_what_is_encoded_and_decoded(trained):
    image, latent = pictures(1), torch.zeros(1, 4)
    told = [(None, None), (torch.tensor([0]), None), (torch.tensor([1]), None), (None, torch.tensor([0.3]))]
    with torch.no_grad():
        encoded = torch.cat([trained.encode(image, *condition)[0] for condition in told])
        decoded = torch.cat([trained.decode(latent, *condition) for condition in told]).flatten(1)
    assert torch.pdist(encoded).min() > 1e-4
    assert torch.pdist(decoded).min() > 1e-4


def test_the_same_seed_draws_the_same_images_and_leaves_other_random_numbers_alone(trained):
    state = torch.get_rng_state()
    first, again, other = trained.sample(3, 5), trained.sample(3, 5), trained.sample(3, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(99)
    assert torch.equal(trained.sample(3, 5)[0], first[0])


def test_samples_are_of_the_class_and_position_asked_for(trained):
    images, labels, positions = trained.sample(70, 0, label=1, position=0.25)
    assert images.shape == (70, 1, 16, 16)
    assert (labels == 1).all()
    assert positions == pytest.approx(torch.full((70,), 0.25), abs=1e-5)
    assert not torch.equal(images, trained.sample(70, 0, label=0, position=0.25)[0])
    assert not torch.equal(images, trained.sample(70, 0, label=1, position=0.75)[0])


def test_samples_of_a_set_have_its_classes_and_positions(trained):
    _, labels, positions = trained.sample(400, 0)
    assert (labels == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (positions.min() >= 0) & (positions.max() <= 1)
    assert positions.std() > 0.2


def score_gradient(critic: VaeGanCritic, image: int) -> torch.Tensor:
    """How the score of one of eight images depends on each of them, (8,)."""
    images = pictures(8).requires_grad_()
    critic(images)[image].backward()
    return images.grad.abs().sum(dim=(1, 2, 3))


def test_a_score_depends_on_its_image_and_its_neighbours_in_the_batch_alone():
    torch.manual_seed(0)
    gradient = score_gradient(VaeGanCritic(16, 1, CHANNELS), image=1)
    assert (gradient[:4] > 0).all()
    assert (gradient[4:] == 0).all()


def test_without_minibatch_deviation_a_score_depends_on_its_image_alone(monkeypatch):
    torch.manual_seed(0)
    critic = VaeGanCritic(16, 1, CHANNELS)
    critic.deviation.group = 1
    gradient = score_gradient(critic, image=1)
    assert gradient.nonzero().flatten().tolist() == [1]


def test_critic_features_of_an_image_do_not_depend_on_the_batch():
    critic, images = VaeGanCritic(32, 1, CHANNELS), pictures(5, 32)
    for together, alone in zip(critic.features(images), critic.features(images[2:3]), strict=True):
        assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_the_critic_is_told_class_and_position():
    torch.manual_seed(0)
    critic, image = VaeGanCritic(16, 1, CHANNELS, num_classes=2), pictures(1)
    told = [(None, None), (torch.tensor([0]), None), (torch.tensor([1]), None), (None, torch.tensor([0.3]))]
    scores = torch.stack([critic(image, *condition) for condition in told])
    assert torch.pdist(scores).min() > 1e-6


def test_every_trainable_part_of_the_critic_takes_gradients():
    torch.manual_seed(0)
    critic = VaeGanCritic(16, 1, CHANNELS, num_classes=2)
    critic(pictures(4), torch.tensor([0, 1, -1, 0]), torch.tensor([0.1, 0.4, torch.nan, 1])).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in critic.parameters())


def test_smoothed_enlargements_have_the_same_weights_and_less_of_a_raster():
    torch.manual_seed(0)
    plain, smooth = (VaeGan(32, 1, CHANNELS, 4, antialias=antialias) for antialias in (False, True))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    smooth.load_state_dict(plain.state_dict())
    raster = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    latent = torch.randn(8, 4)
    with torch.no_grad():
        of_plain, of_smooth = ((network.decode(latent) * raster).mean().abs() for network in (plain, smooth))
    assert of_smooth < 0.5 * of_plain


def test_smoothed_enlargements_are_the_blur_of_repeated_places():
    up, features = StyledUp(8, 8, 1, 4, antialias=True), torch.randn(2, 3, 4, 6)
    repeated = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up.enlarge(features), binomial_blur(repeated))


def test_images_decoded_in_one_pass_are_those_of_two(trained):
    old, new = torch.randn(2, 4), torch.randn(3, 4)
    label, position = torch.tensor([0, 1, 1, -1, 0]), torch.tensor([0.1, 0.9, 0.5, torch.nan, 0.2])
    with torch.no_grad():
        torch.manual_seed(0)
        reconstructions, images = trained.decode_both(old, new, label, position)
        assert torch.allclose(reconstructions, trained.decode(old, label[:2], position[:2]), atol=1e-5)
        assert not torch.allclose(images, trained.decode(new, label[2:], position[2:]), atol=1e-3)  # they have noise


@pytest.mark.parametrize("channels", [0, 12, -8])
def test_channels_that_no_group_divides_are_refused(channels):
    with pytest.raises(MedsynthError, match=f"channels is {channels}: give a multiple of 8"):
        VaeGan(channels=channels)


@pytest.mark.parametrize("size", [16, 128])
def test_convolutions_leave_the_kept_components_as_the_linear_map_drew_them(size):
    torch.manual_seed(0)
    network = VaeGan(image_size=size, channels=8, latent_features=6, kept_components=4)
    network.start_from(torch.rand(12, 1, size, size))
    latent, components = torch.randn(5, 6), sketches(network, torch.eye(6)) - sketches(network, torch.zeros(6, 6))
    assert torch.equal(network.decode(latent), sketches(network, latent))  # the head starts at 0
    torch.nn.init.normal_(network.decoder.head.weight)
    added = (network.decode(latent) - sketches(network, latent)).flatten(1)
    found = torch.linalg.lstsq(components.flatten(1).T, added.T).solution
    alone = torch.linalg.lstsq(components[:4].flatten(1).T, added.T).solution
    assert alone.abs().max() < 1e-3 < 0.1 < found[4:].abs().max()


def sketches(network: VaeGan, latent: torch.Tensor) -> torch.Tensor:
    """What the decoder's linear map alone makes of latent vectors."""
    side = min(network.decoder.image_size, 64)
    sketch = network.decoder.linear(latent).unflatten(1, (1, side, side))
    return torch.nn.functional.interpolate(sketch, size=network.decoder.image_size, mode="bilinear")
