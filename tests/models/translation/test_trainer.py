from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.models.translation.augmentation import Augmentation
from medsynth.models.translation.network import Translator
from medsynth.models.translation.trainer import TranslationTrainer, TranslationWeights, WithoutPartner, middle
from medsynth.nn.patch_discriminator import Discriminators

SIZE = 16
TERMS = [field.name for field in fields(TranslationWeights)]
NONE = dict.fromkeys(TERMS, 0.0)


class Stream(list):
    """What a trainer reads of a loader."""

    dataset = SimpleNamespace(preprocessing=dict.fromkeys(("source", "target"), SimpleNamespace(modality="mri")))

    def __init__(self, has_pairs: bool = False, has_unpaired: bool = False) -> None:
        super().__init__([0])
        self.has_pairs, self.has_unpaired = has_pairs, has_unpaired


def batch(paired: bool, count: int = 4, channels: int = 1) -> dict[str, Tensor | bool]:
    """Targets are the sources with black and white exchanged."""
    random = torch.Generator().manual_seed(3)
    source = torch.rand(count, channels, SIZE, SIZE, generator=random) * 2 - 1
    other = torch.rand(count, channels, SIZE, SIZE, generator=random) * 2 - 1
    position = torch.linspace(0, 1, count)
    places = {"source_position": position, "target_position": position}
    facts = {"paired": paired, "same_position": True} | places
    return {"source": source, "target": -source if paired else other} | facts


@pytest.fixture
def build() -> Callable[..., TranslationTrainer]:
    """A trainer whose networks are always the same."""

    def make(weights: dict[str, float], neighbours: int = 0, loader: Stream | None = None, **arguments):
        torch.manual_seed(0)
        network = Translator(SIZE, neighbours, (8, 16), 4, (3, 5), True)
        with torch.no_grad():
            for direction in (network.source_to_target, network.target_to_source):
                direction.head.weight.normal_(0, 0.1)  # an untrained one gives grey
        discriminator = Discriminators(4, 1, 2, "spectral")
        options = {"objective": "least_squares", "variety": 1.0, "cycle_interval": 1} | arguments
        without_partner = WithoutPartner(options.pop("variety"), options.pop("cycle_interval"))
        options = {"all_terms_on_pairs": False, "pool_size": 8} | options
        return TranslationTrainer(
            network=network,
            discriminator=discriminator,
            network_optimizer=torch.optim.Adam(network.parameters(), lr=2e-3),
            discriminator_optimizer=torch.optim.Adam(discriminator.parameters(), lr=2e-3),
            ema=EMAHandler(network, momentum=0.1),
            weights=TranslationWeights(**(NONE | weights)),
            without_partner=without_partner,
            augmentation=options.pop("augmentation", Augmentation(flip=False)),
            device="cpu",
            max_epochs=1,
            train_data_loader=loader or Stream(),
            epoch_length=1,
            amp=options.pop("amp", False),
            **options,
        )

    return make


ALL = {"l1": 1.0, "ssim": 1.0, "feature": 1.0, "adversarial": 1.0, "cycle": 10.0, "identity": 5.0, "kl": 0.01}
ALL |= {"pixel_distribution": 2.0, "structure": 1.5}
PAIRED, UNPAIRED = {"l1", "ssim", "feature"}, {"adversarial", "cycle", "identity", "pixel_distribution", "structure"}


def step(trainer: TranslationTrainer, paired: bool, **arguments) -> dict[str, float]:
    """One step; its losses."""
    torch.manual_seed(1)
    output = trainer._iteration(trainer, batch(paired, **arguments))
    return {name: value.item() for name, value in output["losses"].items()}


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}


def test_pairs_train_their_terms_and_images_without_partner_theirs(build):
    assert set(step(build(ALL), paired=True)) == {"total", "kl", "discriminator"} | PAIRED
    assert set(step(build(ALL), paired=False)) == {"total", "kl", "discriminator"} | UNPAIRED
    assert set(step(build(ALL, all_terms_on_pairs=True), paired=True)) == {"total", "discriminator", *TERMS}


def test_the_total_is_the_weighted_sum(build):
    found = step(build(ALL, all_terms_on_pairs=True), paired=True)
    assert found["total"] == pytest.approx(sum(ALL[name] * found[name] for name in TERMS), rel=1e-4)


def test_terms_of_weight_0_are_not_computed_and_the_discriminators_rest(build):
    trainer = build({"l1": 1.0}, all_terms_on_pairs=True)
    before = weights_of(trainer.discriminator)
    assert set(step(trainer, paired=True)) == {"total", "l1", "kl"}
    assert not moved(before, trainer.discriminator)


@pytest.mark.parametrize("term", [*sorted(PAIRED), *sorted(UNPAIRED)])
def test_each_term_trains_both_generators(build, term):
    trainer = build({term: 1.0}, all_terms_on_pairs=True)
    before = weights_of(trainer.network)
    step(trainer, paired=True)
    parts = {name.split(".")[0] for name in moved(before, trainer.network)}
    assert parts == {"source_to_target", "target_to_source"}


@pytest.mark.parametrize("objective", ["least_squares", "hinge"])
def test_the_game_trains_both_discriminators_on_both_kinds_of_images(build, objective):
    trainer = build({"adversarial": 1.0}, objective=objective)
    before = weights_of(trainer.discriminator)
    step(trainer, paired=False)
    assert {name.split(".")[0] for name in moved(before, trainer.discriminator)} == {"source", "target"}
    assert len(trainer.pools["source"].images) == len(trainer.pools["target"].images) == 4


def test_discriminators_learn_to_tell_fakes(build):
    trainer = build({"adversarial": 1e-6})
    first = step(trainer, paired=False)["discriminator"]
    for _ in range(30):
        last = step(trainer, paired=False)["discriminator"]
    assert last < 0.7 * first


def test_pairs_teach_the_translation(build):
    trainer = build({"l1": 1.0})
    first = step(trainer, paired=True)["l1"]
    for _ in range(60):
        last = step(trainer, paired=True)["l1"]
    assert last < 0.6 * first


def test_the_cycle_is_trained_now_and_then_where_places_can_be_compared(build):
    trainer = build(ALL, cycle_interval=3)
    found = []
    for iteration in range(1, 7):
        trainer.state.iteration = iteration
        found.append("cycle" in step(trainer, paired=False))
    assert found == [False, False, True, False, False, True]
    trainer.state.iteration = 1
    output = trainer._iteration(trainer, batch(paired=False) | {"same_position": False})
    assert "cycle" in output["losses"]


def test_images_of_different_heights_are_not_compared_place_by_place(build):
    trainer = build(ALL)
    torch.manual_seed(1)
    output = trainer._iteration(trainer, batch(paired=False) | {"same_position": False})
    assert set(output["losses"]) == {"total", "kl", "discriminator", *UNPAIRED} - {"pixel_distribution"}


def test_images_without_partner_are_changed_alike_and_stay_comparable(build):
    trainer = build({"pixel_distribution": 1.0}, augmentation=Augmentation(flip=True, rotation_degrees=20.0))
    images = torch.rand(1, 1, SIZE, SIZE).expand(4, -1, -1, -1)
    for _ in range(3):
        changed = trainer.augmented(batch(paired=False) | {"source": images, "target": images})
        together = torch.cat([changed["source"], changed["target"]])
        assert torch.allclose(together, together[:1].expand_as(together), atol=1e-6)
    changed = trainer.augmented(batch(paired=True) | {"source": images, "target": images})
    assert not torch.allclose(changed["source"], changed["source"][:1].expand(4, -1, -1, -1), atol=0.01)


def test_the_cycle_and_the_identity_are_learned(build):
    trainer = build({"cycle": 1.0, "identity": 1.0})
    first = step(trainer, paired=False)
    for _ in range(40):
        last = step(trainer, paired=False)
    assert last["cycle"] < first["cycle"]
    assert last["identity"] < first["identity"]


def test_a_slice_between_neighbours_goes_all_the_way_round(build):
    found = step(build(ALL, neighbours=1, all_terms_on_pairs=True), paired=True, channels=3)
    assert set(found) == {"total", "discriminator", *TERMS}
    assert middle(torch.arange(3.0).view(1, 3, 1, 1)).item() == 1


@pytest.mark.parametrize("amp", [False, True])
def test_a_step_has_finite_losses_in_both_precisions(build, amp):
    found = step(build(ALL, all_terms_on_pairs=True, amp=amp), paired=True)
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())


def test_a_doubled_batch_has_positions_for_all(build):
    trainer = build({"l1": 1.0}, augmentation=Augmentation(flip=True, doubled=True))
    changed = trainer.augmented(batch(paired=True))
    assert len(changed["source"]) == len(changed["source_position"]) == 8
    assert torch.equal(changed["target"], -changed["source"])


def test_a_resumed_trainer_goes_on_alike(build):
    through = build(ALL, all_terms_on_pairs=True, pool_size=2)
    resumed = build(ALL, all_terms_on_pairs=True, pool_size=2)
    through.stateful().pop("loader")
    for _ in range(2):
        step(through, paired=True)
    for name, part in resumed.stateful().items():
        if name != "loader":
            part.load_state_dict(through.stateful()[name].state_dict())
    assert step(resumed, paired=True) == step(through, paired=True)


@pytest.mark.parametrize(
    ("weights", "loader", "told"),
    [
        ({"l1": 1.0}, Stream(has_unpaired=True), "no partner"),
        ({"l1": 1.0}, Stream(True, True), "no partner"),
        ({"adversarial": 1.0}, Stream(has_pairs=True), "the weights of what pairs train"),
    ],
)
def test_data_without_a_term_to_learn_from_are_refused(build, weights, loader, told):
    with pytest.raises(MedsynthError, match=told):
        build(weights, loader=loader)


@pytest.mark.parametrize("option", [{"variety": 2}, {"cycle_interval": 0}])
def test_options_that_make_no_sense_are_told(build, option):
    with pytest.raises(MedsynthError, match=f"{next(iter(option))} is {next(iter(option.values()))}"):
        build({"pixel_distribution": 1.0}, **option)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much"])
def test_a_weight_that_makes_no_sense_is_told(weight):
    with pytest.raises(MedsynthError, match="weights#cycle"):
        TranslationWeights(**(NONE | {"cycle": weight}))
