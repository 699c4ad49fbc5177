from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.errors import MedsynthError
from medsynth.models.vqvae.priors.gan import CodeDiscriminator, CodeGan
from medsynth.models.vqvae.priors.gan_trainer import CodeGanTrainer, CodeGanWeights, Cooling

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

    def make(assignment: str = "gumbel", **weights: float) -> CodeGanTrainer:
        torch.manual_seed(0)
        network = CodeGan(STAGE_ONE, 16, 5, 2, mixture_components=1, assignment=assignment)
        blobs = Blobs()
        network.stage_one.codebook.start(network.stage_one.encode(blobs.images[:, None]), seed=0)
        critics = CodeDiscriminator(16, 4, 4, 16, 2)
        trainer = CodeGanTrainer(
            network,
            critics,
            torch.optim.SGD(network.parameters(), lr=0.1),
            torch.optim.SGD(critics.parameters(), lr=0.1),
            EMAHandler(network),
            CodeGanWeights(**(dict.fromkeys(TERMS, 0.0) | weights)),
            Cooling(1.0, 0.5, 10),
            instance_noise=0.1,
            decoded_images=4,
            penalty_images=2,
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


@pytest.mark.parametrize("term", ["reconstruction", "adversarial", "feature", "patch", "coarse_reconstruction"])
def test_every_term_trains_the_generator_and_never_stage_one(build, term):
    trainer = build(**{term: 1.0})
    changed = moved(trainer.network, lambda: step(trainer))
    assert "head.rest.weight" in changed
    assert not any(name.startswith(("stage_one", "components", "density")) for name in changed)


@pytest.mark.parametrize("term", ["reconstruction", "commitment", "adversarial", "patch"])
def test_every_term_trains_a_generator_that_snaps(build, term):
    trainer = build("snap", **{term: 1.0})
    assert "shift.weight" in moved(trainer.network, lambda: step(trainer))


def test_without_weights_only_the_critics_learn(build):
    trainer = build()
    assert moved(trainer.network, lambda: step(trainer)) <= {"gain", "spread"}  # which no loss moves
    trainer = build()
    changed = moved(trainer.discriminator, lambda: step(trainer))
    assert {"codes.score.weight", "images.score.weight"} <= changed


def test_the_penalty_is_the_slope_of_both_critics_at_real_maps(build):
    trainer = build()
    critics = trainer.discriminator
    for critic in (critics.codes, critics.images):
        critic.forward = lambda maps, label, position: 3 * maps.flatten(1)[:, 0]  # of slope 3
    codes, images, label = torch.randn(4, 4, 4, 4), torch.randn(2, 1, 16, 16), torch.zeros(4, dtype=torch.long)
    penalty = trainer.penalty(codes, images, label, torch.zeros(4), torch.tensor([0, 2]))
    assert penalty.item() == pytest.approx(9 + 9)


def test_the_temperature_falls_by_the_iterations_alone():
    cooling = Cooling(1.0, 0.25, 100)
    assert [cooling(i) for i in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("values", [(1.0, 2.0, 10), (1.0, 0.0, 10), (1.0, 0.5, 0)])
def test_a_temperature_that_does_not_fall_is_refused(values):
    with pytest.raises(MedsynthError, match="temperature falls from"):
        Cooling(*values)


def test_real_and_generated_codes_are_softened_alike_and_less_as_it_cools(build):
    trainer = build()
    codes = trainer.network.codes[torch.randint(12, (50, 4, 4))].movedim(-1, 1)
    noise = (trainer.with_instance_noise(codes, 0.5) - codes) / trainer.discriminator.deviation
    assert noise.std().item() == pytest.approx(0.1 * 0.5, rel=0.1)


def test_it_begins_with_density_and_maps_of_the_training_set(build):
    trainer = build()
    network = trainer.network
    _, labels, positions = network.density.sample(200)
    assert set(labels.tolist()) == {0, 1}
    assert not positions.isnan().any()
    assert network.slopes.abs().max() > 0
    torch.testing.assert_close(trainer.discriminator.deviation.flatten(), network.codes.std(dim=0))
    assert torch.equal(trainer.generator.components.axes, network.components.axes)
