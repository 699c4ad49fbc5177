from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.models.flow import learning
from medsynth.models.vqvae.priors.flow import CodeFlow
from medsynth.models.vqvae.priors.flow_trainer import CodeFlowTrainer
from medsynth.training.schedule import TwoStages

STAGE_ONE = {
    "image_size": 16,
    "channels": [8, 16],
    "residual_layers": 1,
    "num_codes": 20,
    "code_features": 4,
    "cosine": False,
}


class Slices:
    """What a trainer reads of a dataset: a dark or a bright disc each, of two classes."""

    def __init__(self, count: int = 16) -> None:
        rows, columns = np.mgrid[-1:1:16j, -1:1:16j]
        bright = np.arange(count)[:, None, None] / count
        self.images = np.where(rows**2 + columns**2 < 0.5, bright, -1).astype(np.float32)
        self.views, self.stored_slices = {"image": np.arange(count)[:, None]}, self

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.images[indices])

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        index = torch.from_numpy(indices)
        facts = {"label": index % 2, "position": index / len(self), "index": index}
        return facts | {"covariates": torch.zeros(len(indices), 0)}


@pytest.fixture
def trainer() -> CodeFlowTrainer:
    torch.manual_seed(0)
    network = CodeFlow(STAGE_ONE, [32, 32], 0.0, num_classes=2, use_position=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    run = SimpleNamespace(session_seconds=0.0, start_iteration=0)
    return CodeFlowTrainer(
        network,
        optimizer,
        EMAHandler(network),
        TwoStages(run, [optimizer], max_epochs=10),
        device="cpu",
        max_epochs=10,
        train_data_loader=SliceLoader(Slices(), 8),
        epoch_length=4,
        amp=False,
    )


def test_training_lowers_the_loss_and_leaves_stage_one_at_rest(trainer):
    before = {name: value.clone() for name, value in trainer.network.stage_one.state_dict().items()}
    history: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: history.append(trainer.state.output["losses"]["flow"])
    )
    trainer.run()
    assert history[0] == pytest.approx(1, abs=0.15)
    assert np.mean(history[-8:]) < 0.8 * np.mean(history[:4])
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.stage_one.state_dict().items())


def test_a_new_run_begins_by_normalizing_the_embeddings_of_both_networks(trainer):
    trainer.begin()
    images = trainer.data_loader.dataset.read(np.arange(16))[:, None]
    for network in (trainer.network, trainer.generator):
        assert network.flow.is_fitted
        latents = network.flow.normalize(network.latents(images))
        torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
        assert network.conditions.class_shares.tolist() == [0.5, 0.5, 0.0]


def test_the_embeddings_of_augmented_images_are_learned_and_their_numbers_told(trainer, monkeypatch):
    told, numbers = [], torch.rand(8, 6)
    monkeypatch.setattr(learning, "random_grids", lambda *_: (None, numbers))
    monkeypatch.setattr(learning, "moved", lambda images, *_: -images)
    monkeypatch.setattr(learning, "training_loss", lambda flow, *given: told.append(given) or flow.mix.weight.sum())
    batch = next(iter(trainer.data_loader))
    trainer._iteration(trainer, batch)
    ((latents, augmentation, facts, *_),) = told
    assert torch.equal(augmentation, numbers)
    assert torch.equal(latents, trainer.network.latents(-batch["image"]))
    assert torch.equal(facts["label"], batch["label"])


def test_the_gradient_trains_all_of_the_flow(trainer):
    for parameter in trainer.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = next(iter(trainer.data_loader))
    facts = {name: batch[name] for name in ("label", "position", "covariates")}
    trainer.flow_step(image=batch["image"], facts=facts)
    assert all(parameter.grad.abs().max() > 0 for parameter in trainer.network.parameters())


def test_samples_for_the_handlers_are_the_average_network_s(trainer):
    trainer.run()
    assert torch.equal(trainer.sample(3, 7), trainer.generator.sample(3, 7)[0])
    assert trainer.sample(3, 7).device.type == "cpu"
