from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from medsynth.models.flow.network import LatentFlow
from medsynth.models.flow.quality import TIMES, HeldOutFlowLoss

SHAPE = (2, 4, 4)


@pytest.fixture
def prior() -> LatentFlow:
    torch.manual_seed(0)
    return LatentFlow(2, 4, [32, 32], 0.0, num_classes=2, covariates=("age",)).eval()


def encode(images: Tensor) -> Tensor:
    return images[:, :, ::2, ::2].expand(-1, 2, -1, -1)


def fitted(prior: LatentFlow) -> LatentFlow:
    prior.fit(torch.randn(20, *SHAPE), torch.zeros(20), torch.rand(20), torch.rand(20, 1))
    return prior


def held_out(count: int = 6) -> dict[str, Tensor]:
    facts = {
        "label": torch.arange(count) % 2,
        "position": torch.linspace(0, 1, count),
        "covariates": torch.ones(count, 1),
    }
    return {"image": torch.randn(count, 1, 8, 8)} | facts


def validate(metric: HeldOutFlowLoss, *batches: dict[str, Tensor], off: float = 0.0) -> float:
    """The loss that a validator reports, whose predictions are `off` by so much."""
    engine = Engine(lambda _, batch: {"pred": batch["image"] + off, "label": batch["image"]})
    metric.attach(engine, "validation_loss")
    return engine.run(batches).metrics["validation_loss"]


def test_before_the_prior_is_fitted_it_is_1_and_the_error_of_reconstructions(prior):
    assert validate(HeldOutFlowLoss(prior, encode), held_out(4), held_out(3), off=-0.25) == pytest.approx(1.25)


def test_a_prior_that_has_learned_nothing_has_1_and_one_that_knows_the_latents_0(prior, monkeypatch):
    fitted(prior)
    metric, batch = HeldOutFlowLoss(prior, encode), held_out(300)
    assert validate(metric, batch) == pytest.approx(1, abs=0.1)
    latents = prior.normalize(encode(batch["image"]))

    def best(noisy: Tensor, time: Tensor, *_: object) -> Tensor:
        share = time[:, None, None, None]
        noise = (noisy - share * latents) / (1 - share)
        return ((1 - share) * latents - share * noise) / (share**2 + (1 - share) ** 2).sqrt()

    monkeypatch.setattr(prior, "forward", best)
    assert validate(metric, batch) < 1e-6


def test_noise_and_times_are_the_same_each_time_and_others_with_another_seed(prior):
    fitted(prior)
    metric, batch = HeldOutFlowLoss(prior, encode), held_out()
    first = validate(metric, batch)
    torch.randn(7)
    assert validate(metric, batch) == first
    assert validate(HeldOutFlowLoss(prior, encode, seed=1), batch) != first


def test_each_image_is_measured_in_every_part_of_the_times_under_its_own_conditions(prior, monkeypatch):
    fitted(prior)
    batch, seen = held_out(), []
    embed, condition = prior.embed, []
    monkeypatch.setattr(prior, "embed", lambda *given: condition.append(given) or embed(*given))
    monkeypatch.setattr(
        prior, "forward", lambda noisy, time, condition, augmentation, *_: seen.append((time, augmentation)) or noisy
    )
    validate(HeldOutFlowLoss(prior, encode), batch)
    ((label, position, ages, _),) = condition
    assert [label.tolist(), position.tolist()] == [batch["label"].tolist(), batch["position"].tolist()]
    assert torch.equal(ages, batch["covariates"])
    for index, (time, augmentation) in enumerate(seen):
        assert augmentation is None
        shares = torch.special.ndtr(time.logit()) * TIMES
        assert ((shares > index - 1e-3) & (shares < index + 1 + 1e-3)).all()
    assert len(seen) == TIMES


def test_the_loss_of_a_flow_that_knows_label_maps_is_that_under_the_images_own():
    torch.manual_seed(0)
    prior = LatentFlow(2, 4, [32, 32], 0.0, 2, covariates=("age",), given_channels=1, map_channels=1).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fitted(prior)
    batch = held_out() | {"segmentation": torch.ones(6, 1, 4, 4)}

    def loss(own: float) -> float:
        return validate(HeldOutFlowLoss(prior, encode, given=lambda maps: own * maps), batch)

    assert loss(1.0) == loss(1.0) != loss(2.0)
    assert loss(0.0) == pytest.approx(validate(HeldOutFlowLoss(prior, encode), batch))
