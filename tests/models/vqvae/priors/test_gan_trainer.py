from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.models.vqvae.priors import gan_trainer
from medsynth.models.vqvae.priors.gan import CodeDiscriminator, CodeGan
from medsynth.models.vqvae.priors.gan_trainer import CodeGanTrainer, CodeGanWeights

TERMS = [field.name for field in fields(CodeGanWeights)]
STAGE_ONE = {
    "image_size": 16,
    "channels": [8, 16],
    "residual_layers": 1,
    "num_codes": 12,
    "code_features": 4,
    "cosine": False,
}


class Blobs:
    """Smooth random slices; what a trainer reads of a dataset."""

    def __init__(self, count: int = 40) -> None:
        coarse = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.images = nn.functional.interpolate(coarse * 2 - 1, size=16, mode="bilinear")[:, 0]
        self.views, self.stored_slices = {"image": np.arange(count)[:, None]}, self

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(indices).flatten()].view(*indices.shape, 16, 16)

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        facts = {"label": indices % 2, "position": (indices / 40).astype(np.float32), "index": indices}
        return {name: torch.from_numpy(values) for name, values in facts.items()}


@pytest.fixture
def build() -> Callable[..., CodeGanTrainer]:
    """A trainer that has begun; only terms with a weight other than 0 are left."""

    def make(**weights: float) -> CodeGanTrainer:
        torch.manual_seed(0)
        network = CodeGan(STAGE_ONE, 16, 5, 2, True)
        blobs = Blobs()
        network.stage_one.codebook.start(network.stage_one.encode(blobs.images[:, None]), seed=0)
        critic = CodeDiscriminator(16, 4, 4, 16, 2, True)
        trainer = CodeGanTrainer(
            network,
            critic,
            torch.optim.SGD(network.parameters(), lr=0.1),
            torch.optim.SGD(critic.parameters(), lr=0.1),
            EMAHandler(network),
            CodeGanWeights(**(dict.fromkeys(TERMS, 0.0) | weights)),
            flip=False,
            device="cpu",
            max_epochs=1,
            train_data_loader=SliceLoader(blobs, 8),
            epoch_length=2,
            amp=False,
        )
        trainer.begin()
        return trainer

    return make


def step(trainer: CodeGanTrainer) -> dict[str, float]:
    """A step on the loader's first batch; its losses."""
    torch.manual_seed(1)
    trainer.state.iteration += 1
    output = trainer._iteration(trainer, next(iter(trainer.data_loader)))
    return {name: value.item() for name, value in output["losses"].items()}


def moved(network: nn.Module, by: Callable[[], object]) -> set[str]:
    """Names of what `by` changes in a network, buffers among them."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    by()
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("term", ["reconstruction", "adversarial", "energy"])
def test_every_term_trains_the_generator_and_never_stage_one(build, term):
    trainer = build(**{term: 1.0})
    changed = moved(trainer.network, lambda: step(trainer))
    assert {"out.weight", "generator.start.weight"} <= changed
    assert not any(name.startswith("stage_one") for name in changed)


@pytest.mark.parametrize(("term", "moves"), [("reconstruction", True), ("kl", True), ("energy", False)])
def test_the_encoder_learns_to_reconstruct_and_to_be_normal_only(build, term, moves):
    trainer = build(**{term: 1.0})
    assert any(name.startswith("encoder") for name in moved(trainer.network, lambda: step(trainer))) == moves


def test_what_is_reconstructed_is_drawn_with_the_encoder_s_mean_and_variance(build):
    trainer = build(reconstruction=1.0)
    bias = trainer.network.encoder.out.bias
    before = bias.detach().clone()
    step(trainer)
    mean, log_variance = (bias - before).chunk(2)
    assert mean.abs().min() > 0
    assert log_variance.abs().min() > 0


def test_without_weights_only_the_critic_learns(build):
    trainer = build()
    assert not moved(trainer.network, lambda: step(trainer))
    assert "score.weight" in moved(trainer.discriminator, lambda: step(trainer))


def test_a_map_drawn_is_judged_beside_the_real_one_of_its_conditions(build, monkeypatch):
    trainer, seen = build(), []
    monkeypatch.setattr(gan_trainer, "energy_score", lambda *maps: seen.extend(maps) or torch.zeros(()))
    batch = next(iter(trainer.data_loader))
    trainer._iteration(trainer, batch)
    one, other, real = seen
    codes = trainer.network.stage_one.embed(trainer.maps.of(batch["index"]))
    assert torch.equal(real, trainer.network.scaled(codes)[4:])
    assert one.shape == other.shape == real.shape
    assert not torch.equal(one, other)


def test_the_penalty_is_the_critic_s_squared_slope_at_real_maps(build):
    trainer = build()
    trainer.discriminator.forward = lambda maps, label, position: 3 * maps.flatten(1)[:, 0]  # of slope 3
    label = torch.zeros(6, dtype=torch.long)
    assert trainer.penalty(torch.randn(6, 4, 4, 4), label, torch.zeros(6)).item() == pytest.approx(9)


def test_it_begins_with_the_training_set_s_classes_and_positions(build):
    for network in (build().network, build().generator):
        labels, positions, _ = network.conditions.sample(200)
        assert set(labels.tolist()) == {0, 1}
        assert not positions.isnan().any()
