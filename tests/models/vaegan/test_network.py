from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import VAEGAN
from torch import nn

from medsynth.errors import MedsynthError
from medsynth.models.vaegan import network as vaegan_network
from medsynth.models.vaegan.critic import VaeGanCritic
from medsynth.models.vaegan.network import Decoder, Encoder, ResidualBlock, VaeGan, linear_layer


@pytest.fixture
def network() -> VaeGan:
    torch.manual_seed(0)
    return VaeGan(**(VAEGAN | {"num_classes": 2, "covariates": ["age"]})).eval()


@pytest.fixture
def busy(network) -> VaeGan:
    """One whose every parameter matters, with a fitted prior."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    network.prior.fit(torch.randn(30, 2, 4, 4), torch.arange(30) % 2, torch.rand(30), torch.arange(30.0)[:, None])
    return network


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(24, 40), (8, 16), (64, 32)])
def test_any_multiple_of_the_factor_is_encoded_and_decoded(factor, height, width):
    network = VaeGan(**(VAEGAN | {"factor": factor}))
    images = pictures(2, height, width)
    assert network.latents(images).shape == (2, 2, height // factor, width // factor)
    assert network(images).shape == images.shape


def test_a_place_of_the_latents_stands_for_the_pixels_at_that_place(network):
    images = pictures(1, 40, 48)
    whole, part = network.latents(images), network.latents(images[..., 8:32, 12:44])
    torch.testing.assert_close(part[..., 2:-2, 2:-2], whole[..., 4:6, 5:9])  # attention starts as the identity
    z = torch.randn(1, 2, 12, 14)
    decoded, detail = network.decode(z), network.decode(z[..., 1:11, 2:13])
    torch.testing.assert_close(detail[..., 16:-16, 16:-16], decoded[..., 20:28, 24:36])


def test_attention_and_every_other_parameter_of_the_autoencoder_gets_a_gradient(busy):
    mean, log_variance = busy.encode(pictures(2, 16, 16))
    (busy.decode(mean).square().mean() + log_variance.square().mean()).backward()
    trained = [name for name, p in busy.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert trained == [name for name, _ in busy.named_parameters() if not name.startswith("prior")]
    own = {id(parameter) for parameter in busy.autoencoder_parameters()}
    assert own == {id(p) for name, p in busy.named_parameters() if not name.startswith("prior")}


def test_z_has_mean_and_log_variance_side_by_side_within_limits(network, monkeypatch):
    monkeypatch.setattr(network.encoder, "forward", lambda images: torch.cat([images, 100 * images], dim=1))
    mean, log_variance = network.encode(torch.tensor([-1.0, 0.02, 1.0]).view(3, 1, 1, 1))
    assert mean.flatten().tolist() == pytest.approx([-1, 0.02, 1])
    assert log_variance.flatten().tolist() == pytest.approx([-10, 2, 4])


def test_a_residual_block_starts_as_the_identity_and_its_attention_weakens_what_is_added():
    torch.manual_seed(0)
    block, features = ResidualBlock(32, attention=True), torch.randn(2, 32, 5, 7)
    assert torch.equal(block(features), features)
    nn.init.normal_(block.conv2.weight)
    weakened = block(features) - features
    block.attention = nn.Identity()
    added = block(features) - features
    assert (weakened.abs() < added.abs()).all()


@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 512), (16, 64), (96, 16)])
def test_linear_layers_start_as_an_orthogonal_map_of_each_place(channels_in, channels_out):
    features = torch.randn(2, channels_in, 6, 5)
    found = linear_layer(channels_in, channels_out)(features)
    matrix = linear_layer(channels_in, channels_out).weight[:, :, 1, 1]
    small = matrix.T @ matrix if channels_out > channels_in else matrix @ matrix.T
    torch.testing.assert_close(small, torch.eye(min(channels_in, channels_out)), atol=1e-5, rtol=0)
    if channels_out > channels_in:
        torch.testing.assert_close(found.norm(dim=1), features.norm(dim=1))
    assert found.shape == (2, channels_out, 6, 5)


def test_encoder_and_decoder_feel_the_scale_of_what_they_read(network):
    images, z = pictures(1, 16, 16), torch.randn(1, 2, 4, 4)
    encoder, coarse = Encoder(32, 2, 4), Decoder(48, 2, 4)
    torch.testing.assert_close(encoder(3 * images)[:, :2], 3 * encoder(images)[:, :2], atol=1e-4, rtol=1e-4)
    large = [coarse.coarse(coarse.body(factor * z)) for factor in (1, 3)]
    torch.testing.assert_close(large[1], 3 * large[0], atol=1e-4, rtol=1e-4)


def test_z_starts_with_little_noise(network):
    _, log_variance = network.encode(pictures(1, 16, 16))
    assert log_variance.unique().tolist() == [vaegan_network.FIRST_LOG_VARIANCE]


def test_a_reconstruction_is_the_clamped_decoding_of_the_mean_whatever_the_conditions(busy):
    nn.init.constant_(busy.decoder.detail[-1].bias, 0.9)
    images = pictures(3, 16, 16)
    found = busy(images)
    assert found.max() == 1
    assert torch.equal(found, busy.decode(busy.encode(images)[0]).clamp(-1, 1))
    assert torch.equal(busy(images, torch.ones(3), torch.rand(3), torch.rand(3, 1)), found)


def test_images_are_the_decoded_latents_of_the_prior_however_many_are_decoded_at_once(busy, monkeypatch):
    asked = {"label": 1, "position": 0.3, "covariates": {"age": 12.0}, "steps": 3, "guidance": 1.5}
    z, *conditions = busy.prior.sample(5, 3, **asked)
    images, *others = busy.sample(5, 3, **asked)
    assert torch.equal(images, busy.decode(z).clamp(-1, 1))
    assert all(map(torch.equal, others, conditions))
    monkeypatch.setattr(vaegan_network, "DECODED_AT_ONCE", 2)
    torch.testing.assert_close(busy.sample(5, 3, **asked)[0], images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"factor": 3}, "factor is 3: choose one of 2, 4, 8"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"channels": 48}, "channels is 48: give a multiple of 32, such as 64"),
        ({"channels": 8}, "channels is 8: give a multiple of 32, such as 32"),
        ({"image_size": 20}, "image_size 20: this network needs a multiple of 8 from 16 on, such as 16"),
        ({"image_size": 60}, "set --image_size 64"),
        ({"image_size": 0}, "image_size 0: this network needs"),
        ({"image_size": 24, "factor": 8}, "a multiple of 16 from 16 on, such as 32"),
        ({"prior_channels": [32]}, "prior_channels is"),
        ({"dropout": 1}, "dropout is 1"),
    ],
)
def test_sizes_that_do_not_do_are_refused_with_one_that_does(setting, message):
    with pytest.raises(MedsynthError, match=message):
        VaeGan(**(VAEGAN | setting))


def test_the_critic_scores_each_image_by_itself():
    torch.manual_seed(0)
    critic, images = VaeGanCritic(), pictures(5, 32, 24)
    scores = critic(images)
    assert scores.shape == (5,)
    assert scores.std() > 0
    torch.testing.assert_close(torch.cat([critic(image[None]) for image in images]), scores)


def test_the_critic_s_score_is_that_of_its_features_finest_first():
    critic, images = VaeGanCritic(), pictures(2, 32, 24)
    features = critic.features(images)
    assert [tuple(found.shape[1:]) for found in features] == [(32, 16, 12), (64, 8, 6), (128, 4, 3), (128, 4, 3)]
    assert torch.equal(critic.scores(features), critic(images))
    first = F.leaky_relu(critic.layers[0](images), 0.2)
    assert torch.equal(features[0], first)


def test_every_parameter_of_the_critic_gets_a_gradient_and_so_does_the_image():
    critic, images = VaeGanCritic(), pictures(2, 16, 16).requires_grad_()
    critic(images)[0].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in critic.parameters())
    assert images.grad[0].abs().min() > 0
    assert images.grad[1].abs().max() == 0
