from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from medsynth.models.vqvae.code_grid import CodeGrid
from medsynth.models.vqvae.code_usage import CodeUsage
from medsynth.models.vqvae.network import SliceVqVae


@pytest.fixture
def network() -> SliceVqVae:
    torch.manual_seed(0)
    return SliceVqVae(16, (8, 8), 0, num_codes=32, code_features=4, cosine=False)


def validate(network: SliceVqVae) -> dict[str, float]:
    engine = Engine(lambda engine, batch: {"pred": batch})
    CodeUsage(network).attach(engine, "perplexity")
    return engine.run([torch.zeros(1)]).metrics


def test_usage_is_of_the_whole_epoch_and_starts_again_with_the_next(network):
    latents = network.codebook.embed(torch.arange(32).view(2, 4, 4))
    for half in latents:  # in batches that use half of the codes each
        network.codebook.learn(half[None], network.index(half[None]), decay=0.99, restart_below=0.0)
    metrics = validate(network)
    assert metrics["perplexity"] == pytest.approx(32)
    assert metrics["codes_used"] == 1
    network.codebook.learn(latents[:1], network.index(latents[:1]), decay=0.99, restart_below=0.0)
    assert validate(network) == pytest.approx({"perplexity": 16, "codes_used": 0.5})
    assert math.isnan(validate(network)["perplexity"])


def test_a_collapsed_codebook_is_warned_of_with_what_to_change(network, caplog):
    network.codebook.usage[:20] = 1
    with caplog.at_level(logging.WARNING):
        validate(network)
    assert not caplog.records
    network.codebook.usage[0] = 1000
    network.codebook.usage[1] = 1
    with caplog.at_level(logging.WARNING):
        validate(network)
    (record,) = caplog.records
    assert "its 32 codes are used like 1 (perplexity). In stage one, halve learning_rate" in record.message


def test_pictures_show_slices_above_their_code_maps_above_what_these_decode_to(network):
    torch.manual_seed(0)
    slices = [{"image": torch.rand(1, 16, 16) * 2 - 1} for _ in range(13)]
    run = SimpleNamespace()
    engine = SimpleNamespace(generator=network, state=SimpleNamespace(device=torch.device("cpu")))
    pictures, columns = CodeGrid(run, slices, count=12).pictures(engine)
    assert columns == 9
    assert pictures.shape == (27, 3, 16, 16)  # whole rows alone
    images, maps, fakes = pictures.split(9)
    assert any(torch.equal(images[0, 1], item["image"][0]) for item in slices)
    assert torch.equal(fakes[:, :1], network(images[:, :1]))
    indices = network.encode_indices(images[:, :1])
    blocks = maps.unfold(2, 4, 4).unfold(3, 4, 4)
    assert torch.equal(blocks.amin(dim=(-1, -2)), blocks.amax(dim=(-1, -2)))  # one colour a place
    first = indices == indices[0, 0, 0]
    colours = blocks[..., 0, 0].movedim(1, -1)
    assert (colours[first] == colours[0, 0, 0]).all()
    assert not (colours[~first] == colours[0, 0, 0]).all(dim=-1).any()
