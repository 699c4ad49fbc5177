from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.errors import MedsynthError
from medsynth.losses.adversarial import ADVERSARIAL_LOSSES
from medsynth.losses.similarity import spectral_distance
from medsynth.models.vaegan.network import VaeGan, VaeGanCritic
from medsynth.models.vaegan.trainer import VaeGanTrainer, VaeGanWeights
from medsynth.training import random_state, replay

SIZE, CHANNELS, LATENT, CLASSES = 16, 32, 4, 2
TERMS = [field.name for field in fields(VaeGanWeights)]
ALL = dict.fromkeys(TERMS, 1.0)
SHARES = dict.fromkeys(("l1", "ssim", "feature", "kl"), (SIZE / 64) ** 2)  # of the weights of 64 pixels


class Blobs:
    """Slices of one blob each, wider in class 1 and higher with the position; what a trainer reads of a dataset."""

    def __init__(self, count: int = 40) -> None:
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 3 - 1  # a third without a label
        self.positions = random.random(count).astype(np.float32)
        rows, columns = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
        height, width = (2 * self.positions - 1)[:, None, None], (0.3 + 0.1 * self.labels)[:, None, None]
        blobs = np.exp(-((rows - height) ** 2 + columns**2) / width**2)
        noise = 0.05 * random.standard_normal(blobs.shape)
        self.images = (2 * np.clip(blobs + noise, 0, 1) - 1).astype(np.float16)
        self.views, self.stored_slices = {"image": np.arange(count)[:, None]}, self

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.images[indices]).float()

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        facts = {"label": self.labels[indices], "position": self.positions[indices], "index": indices}
        return {name: torch.from_numpy(values) for name, values in facts.items()}


@pytest.fixture
def build() -> Callable[..., VaeGanTrainer]:
    """A trainer whose networks depend on the seed alone."""

    def make(
        weights: dict[str, float] = ALL,
        seed: int = 0,
        batch_size: int = 8,
        epochs: int = 1,
        length: int = 2,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        learning_rate: float = 1e-3,
        told: bool = True,
        average: Mapping[str, float] = MappingProxyType({"momentum": 0.1}),
        **arguments,
    ) -> VaeGanTrainer:
        torch.manual_seed(seed)
        classes = CLASSES if told else 0
        network = VaeGan(SIZE, 1, CHANNELS, LATENT, classes, told, mixture_components=2, mapping_features=8)
        critic = VaeGanCritic(SIZE, 1, CHANNELS, classes, told)
        optimizers = [optimizer(part.parameters(), lr=learning_rate) for part in (network, critic)]
        options = {"adversarial_loss": "wasserstein", "reconstructed": 0.5, "shift": 0, "warmup": 1, "n_critic": 1}
        options |= {"penalty_images": 4, "penalty_interval": 1, "penalty_target": 0.0} | arguments
        return VaeGanTrainer(
            network,
            critic,
            *optimizers,
            EMAHandler(network, **average),
            VaeGanWeights(**(dict.fromkeys(TERMS, 0.0) | weights)),
            device="cpu",
            max_epochs=epochs,
            train_data_loader=SliceLoader(Blobs(), batch_size),
            epoch_length=length,
            amp=False,
            **options,
        )

    return make


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}


def step(trainer: VaeGanTrainer, seed: int = 1) -> dict[str, float]:
    """One step on the loader's first batch; its losses."""
    torch.manual_seed(seed)
    trainer.state.iteration += 1
    output = trainer._iteration(trainer, next(iter(trainer.data_loader)))
    return {name: value.item() for name, value in output["losses"].items()}


def trained_by(trainer: VaeGanTrainer) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Weights of both networks after a step, and its losses."""
    reported = step(trainer)
    return weights_of(trainer.network), weights_of(trainer.discriminator), reported


def same(first: dict[str, Tensor], second: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(first[name], second[name]) for name in first if name.startswith(prefix))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_few_steps_train_every_trainable_part(build, bfloat16):
    trainer = build(length=4)
    trainer.bfloat16 = bfloat16
    trainer.begin()
    before = weights_of(trainer.network), weights_of(trainer.discriminator)
    for _ in range(4):  # the layers that start at zero let gradients through from the second step on
        assert all(math.isfinite(value) for value in step(trainer).values())
    for start, network in zip(before, (trainer.network, trainer.discriminator), strict=True):
        # a bias that shifts all scores alike is the one thing that a Wasserstein loss does not feel
        trainable = {name for name, p in network.named_parameters() if p.requires_grad and p.numel() > 1}
        assert {name for name in moved(start, network) if start[name].numel() > 1} == trainable
        assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_first_update_is_of_the_generator_and_the_second_of_the_critic_alone(build, monkeypatch):
    trainer, seen = build(), []
    networks = trainer.network, trainer.discriminator

    def spy(optimizer, **how):
        before = [weights_of(network) for network in networks]
        have_gradients = [any(p.grad is not None for p in network.parameters()) for network in networks]
        VaeGanTrainer.descend(trainer, optimizer, **how)
        have_moved = [bool(moved(start, network)) for start, network in zip(before, networks, strict=True)]
        seen.append((have_gradients, have_moved))

    monkeypatch.setattr(trainer, "descend", spy)
    step(trainer)
    assert seen == [([True, False], [True, False]), ([False, True], [False, True])]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_adversarial_term_trains_encoder_and_decoder(build, part, bfloat16):
    trainers = [build({"l1": 1.0, "adversarial": weight}) for weight in (0.0, 1.0)]
    for trainer in trainers:
        trainer.bfloat16 = bfloat16
    without, with_it = (trained_by(trainer)[0] for trainer in trainers)
    assert not same(without, with_it, part)


@pytest.mark.parametrize("term", ["l1", "ssim", "feature", "adversarial"])
def test_each_term_of_an_image_alone_trains_encoder_and_decoder(build, term):
    trainer = build({term: 1.0})
    before = weights_of(trainer.network)
    step(trainer)
    assert {name.split(".")[0] for name in moved(before, trainer.network)} >= {"encoder", "decoder"}


def test_the_divergence_trains_the_encoder_and_not_the_decoder(build):
    trainer = build({"kl": 1.0})
    before = weights_of(trainer.network)
    step(trainer)
    parts = {name.split(".")[0] for name in moved(before, trainer.network)}
    assert "encoder" in parts
    assert "decoder" not in parts


def test_reconstruction_gradients_do_not_come_from_samples_of_the_prior(build, monkeypatch):
    trainer = build({"l1": 1.0})
    drawn = []

    def far_away(count, label, position):
        drawn.append(count)
        return torch.full((count, LATENT), 50.0), label, position

    plain = step(trainer)["l1"]
    other = build({"l1": 1.0})
    monkeypatch.setattr(other.network.density, "sample", far_away)
    assert step(other)["l1"] == pytest.approx(plain, rel=0.2)  # the noise is another one
    assert drawn == [8]


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_of_zero_removes_its_term(build, term):
    *with_it, reported = trained_by(build(ALL))
    *without, fewer = trained_by(build(ALL | {term: 0.0}))
    trained = 1 if term == "penalty" else 0
    assert not same(with_it[trained], without[trained])
    left = fewer["total"] if term == "penalty" else fewer["total"] + SHARES.get(term, 1) * reported[term]
    assert reported["total"] == pytest.approx(left, rel=1e-3, abs=1e-4)


def test_without_any_weight_the_generator_stays_as_it_is(build):
    trainer = build({}, optimizer=torch.optim.SGD)
    before = weights_of(trainer.network)
    assert step(trainer)["total"] == 0
    assert not moved(before, trainer.network)


def test_the_total_is_the_weighted_sum_with_divergence_and_adversarial_term_warming_up(build):
    weights = {"l1": 2.0, "ssim": 0.5, "feature": 0.25, "kl": 8.0, "adversarial": 0.1, "penalty": 3.0}
    trainer = build(weights, warmup=4)
    for iteration, warmth in ((0, 0.25), (1, 0.5), (99, 1.0)):
        trainer.state.iteration = iteration
        reported = step(trainer)
        weighted = {name: SHARES.get(name, 1) * weights[name] * reported[name] for name in weights if name != "penalty"}
        rising = weighted["kl"] + weighted["adversarial"]
        assert reported["total"] == pytest.approx(sum(weighted.values()) - (1 - warmth) * rising, rel=1e-4)


def judged(trainer: VaeGanTrainer) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The real and the fake images that the critic saw in a step, and the step's losses."""
    seen, penalty = [], trainer.penalty

    def spy(real, fake, *condition):
        seen.extend((real, fake))
        return penalty(real, fake, *condition)

    trainer.penalty = spy
    reported = step(trainer)
    return *seen, reported


@pytest.mark.parametrize("adversarial_loss", ADVERSARIAL_LOSSES)
@pytest.mark.parametrize("batch_size", [2, 3, 5, 6, 8])
def test_the_critic_judges_as_many_fake_images_as_real_ones_and_never_compares_the_two(
    build, batch_size, adversarial_loss
):
    weights = {"adversarial": 1.0}
    trainer = build(
        weights, batch_size=batch_size, told=False, learning_rate=0.0, adversarial_loss=adversarial_loss, shift=2
    )
    real, fake, reported = judged(trainer)
    assert len(real) == len(fake) == batch_size
    assert not fake.requires_grad
    with torch.no_grad():
        apart = ADVERSARIAL_LOSSES[adversarial_loss][1](trainer.discriminator(real), trainer.discriminator(fake))
    assert reported["critic"] == pytest.approx(apart.item(), abs=1e-4)


def test_what_the_critic_sees_is_shifted_real_and_fake_images_alike(build):
    trainer, seen = build(shift=2), set()
    dot = torch.zeros(3, 1, SIZE, SIZE)
    dot[..., 5, 7] = 1
    for _ in range(200):
        one, other = trainer.shifted(dot, dot[:2])
        assert torch.equal(one[:2], other)
        rows, columns = one.sum(dim=(0, 1)).nonzero(as_tuple=True)
        seen.add((rows.item() - 5, columns.item() - 7))
    assert seen == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


def test_without_a_shift_the_critic_sees_images_as_they_are(build):
    images = torch.randn(2, 1, SIZE, SIZE)
    assert torch.equal(build(shift=0).shifted(images)[0], images)


@pytest.mark.parametrize(("adversarial_loss", "same_penalty"), [("logistic", True), ("wasserstein", False)])
def test_the_penalty_is_taken_at_real_images_or_between_real_and_fake_ones(build, adversarial_loss, same_penalty):
    trainer, batch = build(adversarial_loss=adversarial_loss, penalty_images=8), next(iter(build().data_loader))
    penalties = []
    for fake in (batch["image"].flip(0), -batch["image"]):
        torch.manual_seed(0)
        penalties.append(trainer.penalty(batch["image"], fake, batch["label"], batch["position"]).item())
    assert (penalties[0] == penalties[1]) == same_penalty
    assert not batch["image"].requires_grad


def test_a_penalty_now_and_then_counts_for_the_steps_between(build):
    def trained(interval: int, weight: float) -> list[dict[str, Tensor]]:
        trainer = build({"penalty": weight}, optimizer=torch.optim.SGD, penalty_interval=interval)
        return [(step(trainer), weights_of(trainer.discriminator))[1] for _ in range(2)]

    often, rarely = trained(1, 6.0), trained(3, 2.0)
    assert same(often[0], rarely[0])
    assert not same(often[1], rarely[1])
    trainer = build(penalty_interval=3)
    assert ["penalty" in step(trainer) for _ in range(7)] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(("adversarial_loss", "weight"), [("logistic", 6.0 * (SIZE / 64) ** 2), ("wasserstein", 6.0)])
def test_r1_counts_by_the_number_of_pixels(build, adversarial_loss, weight):
    assert build(
        {"penalty": 3.0}, adversarial_loss=adversarial_loss, penalty_interval=2
    ).penalty_weight == pytest.approx(weight)


@pytest.mark.parametrize(("share", "reconstructed"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_the_share_of_reconstructions_is_the_configured_one(build, monkeypatch, share, reconstructed):
    trainer, encoded = build(reconstructed=share), []
    encode = trainer.network.encode
    monkeypatch.setattr(
        trainer.network, "encode", lambda image, *told: encoded.append(len(image)) or encode(image, *told)
    )
    step(trainer)
    assert encoded == [reconstructed]


@pytest.mark.parametrize(
    "mistake",
    [
        {"adversarial_loss": "chess"},
        {"reconstructed": 0.0},
        {"reconstructed": 1},
        {"reconstructed": "half"},
        {"penalty_images": 0},
        {"penalty_interval": 0},
        {"shift": -1},
        {"warmup": 0},
    ],
)
def test_settings_that_make_no_sense_are_told(build, mistake):
    ((name, value),) = mistake.items()
    with pytest.raises(MedsynthError, match=f"{name} is {value!r}"):
        build(**mistake)


def test_the_critic_sees_reconstructions_and_samples_as_users_get_them(build, monkeypatch):
    trainer = build({"adversarial": 1.0})
    trainer.begin()

    def far_away(count, label, position):
        return torch.full((count, LATENT), 1e4), label, position

    monkeypatch.setattr(trainer.network.density, "sample", far_away)
    _, fake, _ = judged(trainer)
    assert fake.abs().max() == 1
    saturated = (fake.abs() == 1).float().mean(dim=(1, 2, 3))
    assert (saturated > 0.9).sum() == 4
    assert (saturated < 0.5).sum() == 4


def test_samples_are_drawn_in_twos_for_the_classes_and_positions_of_half_of_the_batch(build, monkeypatch):
    trainer = build(batch_size=6)
    batch, seen = next(iter(trainer.data_loader)), []
    draw = trainer.network.density.sample

    def spy(count, label, position):
        seen.append((count, label, position))
        return draw(count, label, position)

    monkeypatch.setattr(trainer.network.density, "sample", spy)
    trainer._iteration(trainer, batch)
    ((count, label, position),) = seen
    assert count == 6
    assert torch.equal(label, batch["label"][:3].repeat(2))
    assert torch.equal(position, batch["position"][:3].repeat(2))


def test_the_energy_score_makes_samples_as_varied_as_images(build):
    def spread(energy: float) -> float:
        trainer = build({"l1": 0.0, "energy": energy}, length=60, batch_size=16)
        trainer.run()
        images = trainer.network.sample(200, 0)[0]
        return abs(images.std(dim=0).mean().item() - trainer.data_loader.dataset.images.astype("f").std(axis=0).mean())

    assert spread(1.0) < spread(0.0)


def test_the_spectral_distance_gives_samples_the_power_of_images(build):
    def distance(spectrum: float) -> float:
        trainer = build({"l1": 0.0, "spectrum": spectrum}, length=60, batch_size=16)
        trainer.run()
        real = torch.from_numpy(trainer.data_loader.dataset.images.astype("f"))[:, None]
        return spectral_distance(trainer.network.sample(200, 0)[0], real).item()

    assert distance(1.0) < distance(0.0) / 2


@pytest.mark.parametrize("count", [1, 3])
def test_the_critic_learns_as_often_as_asked(build, monkeypatch, count):
    trainer, updated = build(n_critic=count), []
    monkeypatch.setattr(trainer, "descend", lambda optimizer, **how: updated.append(optimizer))
    step(trainer)
    assert updated == [trainer.network_optimizer] + [trainer.discriminator_optimizer] * count


def test_recorded_steps_train_as_plain_ones_do(build, record_on_cpu):
    histories: list[list[dict[str, float]]] = []
    for memory in (None, replay.RecordingMemory()):
        trainer = build(penalty_interval=2, n_critic=2, warmup=20, shift=1)
        record_on_cpu([*trainer.network.parameters(), *trainer.discriminator.parameters()])
        trainer.recordings = memory
        torch.manual_seed(0)
        trainer.begin()
        batches = iter(trainer.data_loader)
        histories.append([])
        for trainer.state.iteration in range(1, 3 * replay.PLAIN_CALLS):
            found = trainer._iteration(trainer, next(batches))["losses"]
            histories[-1].append({name: value.item() for name, value in found.items()})
    assert histories[0] == histories[1]


@pytest.mark.parametrize("n_critic", [0, 1.5])
def test_a_number_of_critic_updates_that_makes_no_sense_is_told(build, n_critic):
    with pytest.raises(MedsynthError, match=f"n_critic is {n_critic}"):
        build(n_critic=n_critic)


@pytest.mark.parametrize(("target", "free"), [(0.0, False), (1e6, True)])
def test_the_slope_that_is_free_is_the_configured_one(build, target, free):
    assert (step(build(penalty_target=target))["penalty"] == 0) == free


def test_the_average_lags_behind_by_its_momentum(build):
    trainer, start = build(length=1), {}
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: start.update(weights_of(trainer.generator)))
    trainer.run()
    network, average = weights_of(trainer.network), weights_of(trainer.generator)
    assert not same(start, network)
    for name in start:
        assert torch.allclose(average[name], 0.9 * start[name] + 0.1 * network[name], atol=1e-6)


def test_a_run_starts_from_principal_components_and_a_density_of_the_training_set(build):
    trainer = build(learning_rate=0.0)
    trainer.run()
    images = torch.from_numpy(trainer.data_loader.dataset.images).float()[:, None]
    with torch.no_grad():
        error = (trainer.generator(images) - images).square().mean()
        _, singular, _ = torch.linalg.svd((images - images.mean(dim=0)).flatten(1), full_matrices=False)
    assert error.item() == pytest.approx(singular[LATENT:].square().sum().item() / images.numel(), rel=0.1)
    _, labels, positions = trainer.generator.density.sample(3000)
    assert [(labels == label).float().mean().item() for label in (-1, 0, 1)] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert positions.mean().item() == pytest.approx(trainer.data_loader.dataset.positions.mean(), abs=0.05)


def test_samples_for_the_handlers_are_the_average_network_s_and_of_their_seed(build):
    trainer = build()
    trainer.run()
    images = trainer.sample(3, 7)
    assert images.device.type == "cpu"
    assert torch.equal(images, trainer.generator.sample(3, 7)[0])
    assert not torch.equal(images, trainer.network.sample(3, 7)[0])
    assert not torch.equal(images, trainer.sample(3, 8))


def test_twice_as_many_steps_equal_half_of_them_and_the_rest_after_a_restore(build):
    average = {"momentum": 0.1, "momentum_warmup": 0.6, "warmup_iters": 6}
    through, first = (build(epochs=epochs, length=3, average=average) for epochs in (2, 1))
    histories: dict[str, list] = {"through": [], "parts": []}
    for name, trainer in (("through", through), ("parts", first)):
        record(trainer, histories[name])
        torch.manual_seed(5)
        trainer.run()
    saved = copy.deepcopy({name: part.state_dict() for name, part in first.stateful().items()})
    random = random_state.capture()

    resumed = build(seed=123, epochs=2, length=3, average=average)
    record(resumed, histories["parts"])
    resumed.state.max_epochs, resumed.state.epoch, resumed.state.iteration = 2, 1, 3
    for name, part in resumed.stateful().items():
        part.load_state_dict(saved[name])
    random_state.restore(random)
    resumed.run()
    assert len(histories["parts"]) == 6
    assert histories["parts"] == histories["through"]
    assert same(resumed.generator.state_dict(), through.generator.state_dict())
    assert torch.equal(resumed.sample(2, 0), through.sample(2, 0))


def record(trainer: VaeGanTrainer, history: list[dict[str, float]]) -> None:
    @trainer.on(Events.ITERATION_COMPLETED)
    def add(engine):
        history.append({name: value.item() for name, value in engine.state.output["losses"].items()})
