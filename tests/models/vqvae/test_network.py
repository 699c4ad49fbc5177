from __future__ import annotations

import pytest
import torch
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import VQVAE, DecoderOnlyTransformer
from monai.utils.ordering import Ordering

from medsynth.errors import MedsynthError
from medsynth.models.vqvae.network import SliceVqVae

SMALL = {
    "image_size": 32,
    "channels": (8, 8),
    "residual_layers": 2,
    "num_codes": 8,
    "code_features": 8,
    "cosine": False,
}


@pytest.fixture
def network() -> SliceVqVae:
    torch.manual_seed(0)
    network = SliceVqVae(32, (8, 16), 1, 32, 4, cosine=False).eval()
    network.codebook.start(network.encode(torch.rand(4, 1, 32, 32) * 2 - 1).detach(), seed=0)
    return network


def test_a_reconstruction_is_what_the_indices_decode_to(network):
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    indices = network.encode_indices(images)
    assert indices.shape == (3, 8, 8)
    assert torch.equal(indices, network.index(network.encode(images)))
    assert torch.equal(network(images), network.decode_indices(indices))
    assert torch.equal(network(images), network.decode(network.embed(indices)))
    assert torch.equal(network(images, torch.zeros(3, dtype=torch.long), torch.zeros(3)), network(images))


def test_images_stay_in_their_range_and_the_grid_is_as_coarse_as_the_levels_make_it(network):
    assert network.stride == 4
    assert network.decode(100 * torch.randn(2, 4, 8, 8)).abs().max() == 1
    deep = SliceVqVae(64, (8, 8, 8), 0, 16, 4, cosine=False)
    assert deep.stride == 8
    assert deep.encode(torch.zeros(1, 1, 64, 64)).shape == (1, 4, 8, 8)


def test_an_index_changes_its_neighbourhood_alone(network):
    indices = torch.zeros(1, 8, 8, dtype=torch.long)
    changed = indices.clone()
    changed[0, 0, 0] = 5
    difference = (network.decode_indices(indices) - network.decode_indices(changed)).abs()[0, 0]
    assert difference[:4, :4].max() > 0
    assert difference[24:, 24:].max() == 0


def test_its_layers_are_monai_s(network):
    theirs = VQVAE(
        2, 1, 1, (8, 16), 1, (8, 16), (2, 4, 1, 1), (2, 4, 1, 1, 0), num_embeddings=32, embedding_dim=4
    ).eval()
    theirs.encoder.load_state_dict(network.encoder.state_dict())
    theirs.decoder.load_state_dict(network.decoder.state_dict())
    theirs.quantizer.quantizer.embedding.weight.data.copy_(network.codebook.codes)
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(network(images), theirs(images)[0].clamp(-1, 1))


def test_monai_s_transformer_inferer_takes_it_as_it_is(network):
    transformer = DecoderOnlyTransformer(33, 64, attn_layers_dim=8, attn_layers_depth=1, attn_layers_heads=1)
    ordering = Ordering("raster_scan", 2, (1, 8, 8))
    images = torch.rand(2, 1, 32, 32)
    prediction, target, shape = VQVAETransformerInferer()(images, network, transformer, ordering, return_latent=True)
    assert prediction.shape == (2, 64, 33)
    assert torch.equal(target.view(2, 8, 8), network.encode_indices(images))
    assert shape == (8, 8)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (
            {"image_size": 30},
            "image_size 30: this network needs a multiple of 4 from 16 on, such as 32; set --image_si",
        ),
        ({"image_size": 8}, "image_size 8: this network needs a multiple of 4 from 16 on, such as 16"),
        ({"image_size": "big"}, "image_size big"),
        ({"channels": 64}, "channels is 64"),
        ({"channels": []}, "channels is []"),
        ({"residual_layers": -1}, "residual_layers is -1"),
        ({"num_codes": 1}, "num_codes is 1: give 2 or more"),
        ({"code_features": 64}, "code_features is 64: give 4 to 16"),
        ({"code_features": 2.5}, "code_features is 2.5"),
    ],
)
def test_a_mistake_is_told_in_one_line(mistake, told):
    with pytest.raises(MedsynthError) as refused:
        SliceVqVae(**SMALL | mistake)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
