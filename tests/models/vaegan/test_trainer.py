from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from small_networks import VAEGAN
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.errors import MedsynthError
from medsynth.models.flow import learning
from medsynth.models.vaegan import trainer as vaegan_trainer
from medsynth.models.vaegan.critic import VaeGanCritic
from medsynth.models.vaegan.network import VaeGan
from medsynth.models.vaegan.trainer import VaeGanTrainer, VaeGanWeights
from medsynth.training import random_state, replay
from medsynth.training.adversarial_trainer import SHIFT, shifted
from medsynth.training.schedule import TwoParts

SIZE = VAEGAN["image_size"]
TERMS = [field.name for field in fields(VaeGanWeights)]
ALL = dict.fromkeys(TERMS, 1.0)


class Blobs:
    """Slices of one blob each, wider in class 1 and higher with the position; what a trainer reads of a dataset.

    Args:
        labelled: whether label maps come with them, in which a blob is class 1.
    """

    def __init__(self, count: int = 40, labelled: bool = False) -> None:
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 3 - 1  # a third without a label
        self.positions = random.random(count).astype(np.float32)
        rows, columns = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
        height, width = (2 * self.positions - 1)[:, None, None], (0.3 + 0.1 * self.labels)[:, None, None]
        blobs = np.exp(-((rows - height) ** 2 + columns**2) / width**2)
        noise = 0.05 * random.standard_normal(blobs.shape)
        self.images = (2 * np.clip(blobs + noise, 0, 1) - 1).astype(np.float16)
        self.views, self.stored_slices = {"image": np.arange(count)[:, None]}, self
        if labelled:  # label maps lie behind the slices
            self.images = np.concatenate([self.images, self.images > 0])
            self.views["segmentation"] = self.views["image"] + count

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.images[indices]).float()

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        facts = {"label": self.labels[indices], "position": self.positions[indices], "index": indices}
        facts["covariates"] = np.zeros((len(indices), 0), np.float32)
        return {name: torch.from_numpy(values) for name, values in facts.items()}


@pytest.fixture
def build() -> Callable[..., VaeGanTrainer]:
    """A trainer whose networks depend on the seed alone."""

    def make(
        weights: dict[str, float] = ALL,
        seed: int = 0,
        epochs: int = 1,
        length: int = 2,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        learning_rate: float = 1e-3,
        first_share: float = 0.5,
        segmentation_classes: int = 0,
        **arguments,
    ) -> VaeGanTrainer:
        torch.manual_seed(seed)
        more = {"num_classes": 2, "segmentation_classes": segmentation_classes}
        network, critic = VaeGan(**(VAEGAN | more)), VaeGanCritic()
        parts = network.autoencoder_parameters(), critic.parameters(), network.prior_parameters()
        optimizers = [optimizer(part, lr=learning_rate) for part in parts]
        run = SimpleNamespace(session_seconds=0.0, start_iteration=0)
        options = {"adversarial_loss": "wasserstein", "critic_from": 0.0, "penalty_interval": 1} | arguments
        return VaeGanTrainer(
            network,
            critic,
            *optimizers,
            ema=EMAHandler(network),
            schedule=TwoParts(run, optimizers, first_share),
            weights=VaeGanWeights(**(dict.fromkeys(TERMS, 0.0) | weights)),
            device="cpu",
            max_epochs=epochs,
            train_data_loader=SliceLoader(Blobs(labelled=segmentation_classes > 0), 8),
            epoch_length=length,
            amp=False,
            **options,
        )

    return make


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    """The parts of a network, some of whose weights have changed."""
    return {
        name.split(".")[0] for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)
    }


def step(trainer: VaeGanTrainer, batch: dict[str, Tensor] | None = None) -> dict[str, float]:
    """One step on a batch, or on the loader's next; its losses."""
    torch.manual_seed(1)
    trainer.state.iteration += 1
    output = trainer._iteration(trainer, next(iter(trainer.data_loader)) if batch is None else batch)
    return {name: value.item() for name, value in output["losses"].items()}


def trained_by(trainer: VaeGanTrainer) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Weights of both networks after a step, and its losses."""
    reported = step(trainer)
    return weights_of(trainer.network), weights_of(trainer.discriminator), reported


def same(first: dict[str, Tensor], second: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(first[name], second[name]) for name in first if name.startswith(prefix))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_few_steps_of_each_part_train_every_parameter_of_its_networks(build, bfloat16):
    trainer = build(seed=1, optimizer=torch.optim.SGD, learning_rate=0.1)
    trainer.bfloat16 = bfloat16
    for part in ("first", "second"):
        if part == "second":
            trainer.schedule.second_from = 4
            trainer.begin_prior()
        before = weights_of(trainer.network) | weights_of(trainer.discriminator)
        for _ in range(8):  # layers that start at zero let gradients through from the second step on
            assert all(math.isfinite(value) for value in step(trainer).values())
        now = weights_of(trainer.network) | weights_of(trainer.discriminator)
        changed = {name for name in before if not torch.equal(before[name], now[name])}
        of_prior = {name for name in now if name.startswith("prior")}
        # a bias that shifts all scores alike is the one thing that a Wasserstein loss does not feel
        assert changed | {"score.bias"} == (of_prior | {"score.bias"} if part == "second" else set(now) - of_prior)
        assert all(weight.isfinite().all() for weight in now.values())


def test_the_first_update_is_of_encoder_and_decoder_and_the_second_of_the_critic_alone(build, monkeypatch):
    trainer, seen = build(), []
    networks = trainer.network, trainer.discriminator

    def spy(optimizer, *longest):
        before = [weights_of(network) for network in networks]
        have_gradients = [any(p.grad is not None for p in network.parameters()) for network in networks]
        VaeGanTrainer.descend(trainer, optimizer, *longest)
        seen.append((have_gradients, [moved(start, network) for start, network in zip(before, networks, strict=True)]))

    monkeypatch.setattr(trainer, "descend", spy)
    step(trainer)
    (first, of_first), (second, of_second) = seen
    assert (first, of_first) == ([True, False], [{"encoder", "decoder"}, set()])
    assert (second, of_second) == ([False, True], [set(), {"layers", "score"}])


def test_without_a_weight_of_the_adversarial_term_the_critic_never_learns(build):
    trainer = build(ALL | {"adversarial": 0.0})
    before = weights_of(trainer.discriminator)
    trainer.schedule.done = 1.0
    assert set(step(trainer)) == {"total", "l1", "ssim", "patch", "spectrum", "kl"}
    assert not moved(before, trainer.discriminator)


def test_the_critic_joins_after_its_share_of_the_first_part(build):
    trainer, joined = build(epochs=2, length=10, critic_from=0.4), []

    @trainer.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        joined.append("critic" in trainer.state.output["losses"])

    trainer.run()
    assert joined == [False] * 4 + [True] * 6 + [False] * 10


@pytest.mark.parametrize("term", ["l1", "ssim", "patch", "spectrum", "kl"])
def test_each_weight_of_a_likeness_alone_trains_what_it_can(build, term):
    trainer = build({term: 1.0, "l1": 1.0 if term == "l1" else 1e-12})
    before = weights_of(trainer.network)
    step(trainer)
    assert "encoder" in moved(before, trainer.network)
    few = build({term: 1.0, "l1": 1.0 if term == "l1" else 0.0}, optimizer=torch.optim.SGD)
    before = weights_of(few.network)
    step(few)
    assert moved(before, few.network) == ({"encoder"} if term == "kl" else {"encoder", "decoder"})


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_of_zero_removes_its_term(build, term):
    of_generator, of_critic, reported = trained_by(build(ALL, adversarial_loss="logistic"))
    others = trained_by(build(ALL | {term: 0.0}, adversarial_loss="logistic"))
    assert same(of_generator, others[0]) == (term == "penalty")
    if term == "penalty":
        assert not same(of_critic, others[1])
    assert set(others[2]) >= set(reported) - {term, "feature", "adversarial", "critic", "penalty"}


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_critic_of_slope_1_pulls_as_hard_as_l1(build, monkeypatch, weight):
    def pull(weights: dict[str, float]) -> float:
        trainer, seen = build(weights), []
        decode = trainer.network.decode

        def keep(z: Tensor) -> Tensor:
            seen.append(decode(z))
            seen[0].retain_grad()
            return seen[0]

        monkeypatch.setattr(trainer.network, "decode", keep)
        monkeypatch.setattr(trainer.discriminator, "features", lambda images: [images])
        monkeypatch.setattr(trainer.discriminator, "scores", lambda features: features[0].sum(dim=(1, 2, 3)) / SIZE)
        trainer.autoencoder_step(real=next(iter(trainer.data_loader))["image"], has_critic="adversarial" in weights)
        return seen[0].grad.norm().item()

    assert pull({"l1": 1e-12, "adversarial": weight}) == pytest.approx(weight * pull({"l1": 1.0}), rel=1e-4)


def test_the_losses_of_a_batch_by_hand(build, monkeypatch):
    trainer = build({"l1": 2.0, "kl": 0.5})
    batch = next(iter(trainer.data_loader))
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    with torch.no_grad():
        mean, log_variance = trainer.network.encode(batch["image"])
        fake = trainer.network.decode(mean + (log_variance / 2).exp())
    reported = step(trainer, batch)
    assert reported["l1"] == pytest.approx((fake - batch["image"]).abs().mean().item(), rel=1e-4)
    nats = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
    assert reported["kl"] == pytest.approx(nats.item() / SIZE**2, rel=1e-4)


@pytest.mark.parametrize(("adversarial_loss", "target"), [("logistic", 0.0), ("wasserstein", 1.0)])
def test_the_penalty_is_taken_at_real_images_or_between_real_and_fake_ones(
    build, monkeypatch, adversarial_loss, target
):
    trainer, seen = build(adversarial_loss=adversarial_loss), []

    def penalty(critic, images, slope):
        seen.append((images, slope))
        return critic(images).mean()

    monkeypatch.setattr(vaegan_trainer, "gradient_penalty", penalty)
    monkeypatch.setattr(vaegan_trainer, "shifted", lambda *sets: list(sets))
    monkeypatch.setattr(vaegan_trainer, "PENALTY_IMAGES", 3)
    real, fake = torch.full((4, 1, SIZE, SIZE), 0.5), torch.full((4, 1, SIZE, SIZE), -0.5)
    trainer.critic_step(real=real, fake=fake, with_penalty=True)
    ((images, slope),) = seen
    assert slope == target
    assert len(images) == 3
    assert images.requires_grad
    assert torch.equal(images, real[:3]) == (adversarial_loss == "logistic")
    assert images.abs().max() <= 0.5
    assert not real.requires_grad


@pytest.mark.parametrize("adversarial_loss", ["wasserstein", "logistic"])
def test_the_critic_learns_to_score_real_images_higher(build, adversarial_loss):
    trainer = build(adversarial_loss=adversarial_loss)
    real = next(iter(trainer.data_loader))["image"]
    fake = -real
    for _ in range(20):
        trainer.critic_step(real=real, fake=fake, with_penalty=False)
        trainer.descend(trainer.discriminator_optimizer)
    with torch.no_grad():
        assert trainer.discriminator(real).min() > trainer.discriminator(fake).max()


def test_a_penalty_now_and_then_counts_for_the_steps_between(build):
    def trained(interval: int, weight: float) -> dict[str, Tensor]:
        weights = {"adversarial": 1.0, "l1": 1.0, "penalty": weight}
        trainer = build(weights, penalty_interval=interval, adversarial_loss="logistic", optimizer=torch.optim.SGD)
        trainer.state.iteration = 2
        step(trainer)
        return weights_of(trainer.discriminator)

    assert same(trained(1, 6.0), trained(3, 2.0))
    assert not same(trained(1, 6.0), trained(1, 2.0))
    trainer = build(penalty_interval=3)
    assert ["penalty" in step(trainer) for _ in range(7)] == [False, False, True, False, False, True, False]


def test_what_the_critic_sees_is_shifted_real_and_fake_images_alike():
    torch.manual_seed(0)
    seen, dot = set(), torch.zeros(3, 1, SIZE, SIZE)
    dot[..., 5, 7] = 1
    for _ in range(400):
        one, other = shifted(dot, dot[:2])
        assert torch.equal(one[:2], other)
        rows, columns = one.sum(dim=(0, 1)).nonzero(as_tuple=True)
        seen.add((rows.item() - 5, columns.item() - 7))
    assert seen == {(row, column) for row in range(-SHIFT, SHIFT + 1) for column in range(-SHIFT, SHIFT + 1)}


def test_what_leaves_at_one_side_enters_at_the_other(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([1]))
    found = shifted(torch.arange(12.0).view(1, 1, 3, 4))[0]
    assert found[0, 0].tolist() == [[11, 8, 9, 10], [3, 0, 1, 2], [7, 4, 5, 6]]


def test_the_second_part_begins_at_the_moving_average_and_leaves_encoder_and_decoder_at_rest(build):
    trainer, seen = build(epochs=2, length=4), []

    @trainer.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        parts = (trainer.network, trainer.generator)
        seen.append([{k: v.clone() for k, v in part.state_dict().items() if "prior" not in k} for part in parts])

    trainer.run()
    assert not same(seen[3][0], seen[3][1])
    for network, average in seen[4:]:
        assert same(network, seen[3][1])
        assert all(torch.allclose(average[name], network[name], atol=1e-6) for name in network)
    assert set(trainer.state.output["losses"]) == {"flow"}


def test_the_prior_over_label_maps_learns_alone_after_every_fourth_step_of_the_other(build, monkeypatch):
    trainer, seen = build(epochs=2, length=8, segmentation_classes=2), []

    def spy(optimizer, *longest):
        before = weights_of(trainer.network)
        VaeGanTrainer.descend(trainer, optimizer, *longest)
        seen.append(moved(before, trainer.network))

    monkeypatch.setattr(trainer, "descend", spy)
    trainer.run()
    assert seen[-10:] == ([{"prior"}] * 4 + [{"map_prior"}]) * 2
    assert set(trainer.state.output["losses"]) == {"flow", "map_flow"}
    share = (trainer.data_loader.dataset.read(np.arange(40, 80)) == 1).float().mean().item()
    for network in (trainer.network, trainer.generator):
        assert network.map_prior.mean.flatten().tolist() == pytest.approx([1 - share] * 4 + [share] * 4)


def test_without_label_maps_the_networks_weights_have_the_names_that_they_had(build):
    assert {name.split(".")[0] for name in build().network.state_dict()} == {"encoder", "decoder", "prior"}


def test_the_prior_knows_the_latents_and_conditions_of_the_training_set(build):
    trainer = build(epochs=2, length=4)
    trainer.run()
    images = trainer.data_loader.dataset.read(np.arange(40))[:, None]
    for network in (trainer.network, trainer.generator):
        latents = network.prior.normalize(network.latents(images))
        torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    _, labels, positions, _ = trainer.generator.sample(2000, 0, steps=1)
    assert [(labels == label).float().mean().item() for label in (-1, 0, 1)] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert positions.mean().item() == pytest.approx(trainer.data_loader.dataset.positions.mean(), abs=0.05)


def test_the_moving_average_of_the_prior_begins_anew(build):
    trainer, momenta = build(epochs=2, length=8), []

    @trainer.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        momenta.append(trainer.state.ema_momentum)

    trainer.run()
    assert momenta[:2] == [1, 1 - 0.5**18]
    assert momenta[8:] == momenta[:8]


def test_an_augmented_image_is_encoded_and_its_numbers_told(build, monkeypatch):
    trainer, told = build(), []
    trainer.schedule.second_from = 0
    numbers = torch.rand(8, 6)
    monkeypatch.setattr(learning, "random_grids", lambda *_: (torch.zeros(8, SIZE, SIZE, 2), numbers))
    monkeypatch.setattr(learning, "moved", lambda images, *_: -images)
    monkeypatch.setattr(learning, "training_loss", lambda prior, *given: told.append(given) or prior.mix.weight.sum())
    batch = next(iter(trainer.data_loader))
    step(trainer, batch)
    ((latents, augmentation, facts, given),) = told
    assert given is None
    assert torch.equal(augmentation, numbers)
    assert torch.equal(latents, trainer.network.latents(-batch["image"]))
    assert not latents.requires_grad
    assert torch.equal(facts["label"], batch["label"])


def test_recorded_steps_train_as_plain_ones_do(build, record_on_cpu):
    histories: list[list[dict[str, float]]] = []
    for memory in (None, replay.RecordingMemory()):
        trainer = build(penalty_interval=2)
        record_on_cpu([*trainer.network.parameters(), *trainer.discriminator.parameters()])
        trainer.recordings = memory
        batches = iter(trainer.data_loader)
        torch.manual_seed(0)
        histories.append([])
        for trainer.state.iteration in range(1, 5 * replay.PLAIN_CALLS):
            if trainer.state.iteration == 3 * replay.PLAIN_CALLS:
                trainer.schedule.second_from = trainer.state.iteration - 1
            batch = next(batches, None) or next(batches := iter(trainer.data_loader))
            found = trainer._iteration(trainer, batch)["losses"]
            histories[-1].append({name: value.item() for name, value in found.items()})
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    "mistake",
    [{"adversarial_loss": "chess"}, {"critic_from": -0.1}, {"critic_from": 1.5}, {"penalty_interval": 0}],
)
def test_settings_that_make_no_sense_are_told(build, mistake):
    ((name, value),) = mistake.items()
    with pytest.raises(MedsynthError, match=f"{name} is {value!r}"):
        build(**mistake)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan, "much"])
def test_weights_that_make_no_sense_are_told(weight):
    with pytest.raises(MedsynthError, match=f"weights#patch is {weight!r}"):
        VaeGanWeights(**(ALL | {"patch": weight}))


def test_samples_for_the_handlers_are_the_average_network_s_and_of_their_seed(build):
    trainer = build(epochs=2, length=6, optimizer=torch.optim.SGD, learning_rate=0.3)
    trainer.run()
    images = trainer.sample(3, 7)
    assert images.device.type == "cpu"
    assert torch.equal(images, trainer.generator.sample(3, 7)[0])
    assert not torch.equal(images, trainer.network.sample(3, 7)[0])
    assert not torch.equal(images, trainer.sample(3, 8))


def record(trainer: VaeGanTrainer, history: list[dict[str, float]]) -> None:
    @trainer.on(Events.ITERATION_COMPLETED)
    def add(engine):
        history.append({name: value.item() for name, value in engine.state.output["losses"].items()})


def continued(stopped: VaeGanTrainer, build: Callable[..., VaeGanTrainer], **settings: object) -> VaeGanTrainer:
    """A new trainer in the state of one that has just stopped."""
    random = random_state.capture()
    trainer = build(seed=123, **settings)
    trainer.state.epoch, trainer.state.iteration = stopped.state.epoch, stopped.state.iteration
    saved = copy.deepcopy({name: part.state_dict() for name, part in stopped.stateful().items()})
    for name, part in trainer.stateful().items():
        part.load_state_dict(saved[name])
    random_state.restore(random)
    return trainer


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_is_resumed_in_either_part_is_to_the_bit_one_in_a_piece(build, stop):
    settings = {"epochs": 4, "length": 3, "penalty_interval": 2}
    through, first = build(**settings), build(**settings)
    histories: dict[str, list] = {"through": [], "parts": []}
    first.add_event_handler(Events.EPOCH_COMPLETED(once=stop), first.terminate)
    for name, trainer in (("through", through), ("parts", first)):
        record(trainer, histories[name])
        torch.manual_seed(5)
        trainer.run()
    resumed = continued(first, build, **settings)
    record(resumed, histories["parts"])
    resumed.run()
    assert len(histories["parts"]) == 12
    assert histories["parts"] == histories["through"]
    assert resumed.schedule.second_from == 6
    for part in ("network", "discriminator", "generator"):
        assert same(getattr(resumed, part).state_dict(), getattr(through, part).state_dict())
    assert torch.equal(resumed.sample(2, 0), through.sample(2, 0))


def test_a_run_that_is_prolonged_in_its_second_part_stays_there(build):
    ended = build(epochs=4, length=3)
    ended.run()
    longer = continued(ended, build, epochs=40, length=3)
    longer.add_event_handler(Events.EPOCH_COMPLETED(once=6), longer.terminate)
    history: list[dict[str, float]] = []
    record(longer, history)
    longer.run()
    assert [set(losses) for losses in history] == [{"flow"}] * 6
    assert same(longer.network.state_dict(), ended.network.state_dict(), "encoder")
    assert longer.schedule.second_from == 6
