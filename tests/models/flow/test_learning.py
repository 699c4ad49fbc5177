from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsynth.models.flow import learning
from medsynth.models.flow.learning import fit, flow_loss, moved, random_grids, training_loss
from medsynth.models.flow.network import LatentFlow

SHAPE = (3, 4, 4)


@pytest.fixture
def flow() -> LatentFlow:
    torch.manual_seed(0)
    return LatentFlow(3, 4, [32, 32], 0.0, num_classes=2, use_position=True, covariates=("age",))


def loss_of(flow: LatentFlow, latents: Tensor, **given: Tensor) -> Tensor:
    return flow_loss(flow, latents, torch.zeros(len(latents), 64), **given)


def test_the_loss_of_an_untrained_flow_is_1(flow):
    assert loss_of(flow, torch.randn(2000, *SHAPE)).mean().item() == pytest.approx(1, abs=0.02)


def test_the_loss_of_a_flow_that_says_the_target_is_0_and_of_one_that_says_half_of_it_a_quarter(flow, monkeypatch):
    latents, noise, uniform = torch.randn(50, *SHAPE), torch.randn(50, *SHAPE), torch.rand(50)

    def target(time: Tensor) -> Tensor:
        share = time[:, None, None, None]
        return ((1 - share) * latents - share * noise) / (share**2 + (1 - share) ** 2).sqrt()

    whole = loss_of(flow, latents, uniform=uniform, noise=noise)
    monkeypatch.setattr(flow, "forward", lambda noisy, time, *_: target(time))
    assert loss_of(flow, latents, uniform=uniform, noise=noise).max() < 1e-10
    monkeypatch.setattr(flow, "forward", lambda noisy, time, *_: target(time) / 2)
    torch.testing.assert_close(loss_of(flow, latents, uniform=uniform, noise=noise), whole / 4)


def test_what_the_flow_reads_is_the_mixture_at_its_time(flow, monkeypatch):
    seen = []
    monkeypatch.setattr(flow, "forward", lambda noisy, time, *_: seen.append((noisy, time)) or noisy)
    latents, noise = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    normal = torch.distributions.Normal(0, 1)
    uniform = torch.tensor([0.5, normal.cdf(torch.tensor(1.0)), normal.cdf(torch.tensor(-2.0))])
    loss_of(flow, latents, uniform=uniform, noise=noise)
    ((noisy, time),) = seen
    expected = torch.tensor([0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))])
    torch.testing.assert_close(time, expected)
    share = expected[:, None, None, None]
    torch.testing.assert_close(noisy, share * latents + (1 - share) * noise)


def test_the_times_of_a_batch_are_spread_evenly_and_others_the_next_time(flow, monkeypatch):
    seen = []
    monkeypatch.setattr(flow, "forward", lambda noisy, time, *_: seen.append(time) or noisy)
    for _ in range(2):
        loss_of(flow, torch.randn(8, *SHAPE))
    shares = [torch.special.ndtr(time.logit()).sort().values for time in seen]
    for share in shares:
        torch.testing.assert_close(share.diff(), torch.full((7,), 1 / 8), atol=1e-3, rtol=0)
    assert not torch.allclose(*shares)


def test_the_gradient_reaches_every_parameter(flow):
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    facts = {"label": torch.tensor([0, 1, -1] * 4), "position": torch.rand(12), "covariates": torch.rand(12, 1)}
    training_loss(flow, torch.randn(12, *SHAPE), torch.randn(12, 6), facts).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_training_batch_is_normalized_its_augmentation_told_and_a_tenth_of_its_conditions_hidden(flow, monkeypatch):
    count, told = 3000, []
    latents = 5 + 3 * torch.randn(count, *SHAPE)
    flow.fit(latents, torch.zeros(2), torch.rand(2), torch.tensor([[40.0], [60.0]]))
    embed, condition = flow.embed, []
    monkeypatch.setattr(flow, "embed", lambda *given: condition.append(given) or embed(*given))
    monkeypatch.setattr(flow.augmentation, "forward", lambda numbers: told.append(numbers) or torch.zeros(count, 64))
    facts = {"label": torch.ones(count, dtype=torch.long), "position": torch.rand(count)}
    facts["covariates"] = torch.full((count, 1), 50.0)
    numbers = torch.randn(count, 6)
    assert training_loss(flow, latents, numbers, facts).item() == pytest.approx(1, abs=0.02)
    assert torch.equal(told[0], numbers)
    ((label, position, ages, _),) = condition
    lost = label == -1
    assert lost.float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(position.isnan(), lost)
    assert torch.equal(ages[:, 0].isnan(), lost)


class Slices:
    """What is read of a dataset: image i is all i, of class i % 2."""

    def __len__(self) -> int:
        return 100

    def read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices)[:, None, None].expand(-1, 8, 8).to(torch.float16)

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        index = torch.from_numpy(indices)
        return {"label": index % 2, "position": index / 100, "covariates": index[:, None].float()}


def test_fitting_encodes_a_spread_of_the_images_in_parts_and_reads_the_facts_of_all(flow, monkeypatch):
    monkeypatch.setattr(learning, "FITTED_TO", 12)
    monkeypatch.setattr(learning, "ENCODED_AT_ONCE", 5)
    parts = []

    def encode(images: Tensor) -> Tensor:
        parts.append(images)
        return images[:, :, ::2, ::2].expand(-1, 3, -1, -1)

    fit(flow, encode, Slices())
    assert [len(part) for part in parts] == [5, 5, 2]
    seen = torch.cat(parts)
    assert seen.dtype == torch.float32
    assert seen[:, 0, 0, 0].tolist() == list(range(0, 100, 9))
    assert flow.mean.flatten().tolist() == pytest.approx([49.5] * 3)
    assert flow.conditions.class_shares.tolist() == [0.5, 0.5, 0.0]
    assert flow.conditions.covariate_highest.item() == 99


def augmented(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images, each moved in its own way, and the numbers that say how."""
    grid, numbers = random_grids(len(images), images.shape[-2:], images.device)
    return moved(images, grid, numbers), numbers


def augmented_by(monkeypatch, images: Tensor, *numbers: float) -> tuple[Tensor, Tensor]:
    """All images augmented by the same six numbers, without waves of their own."""
    uniform = torch.tensor(numbers).expand(len(images), 6) / 2 + 0.5
    draws = iter([torch.zeros(len(images), 1), uniform])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **_: next(draws).clone())
        return augmented(images)


def blob(row: float, column: float, size: int = 32) -> Tensor:
    """(1, 1, size, size), a bright spot in air."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (2 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8) - 1)[None, None]


def middle(image: Tensor) -> list[float]:
    """Centre of mass, row and column."""
    mass = image[0, 0] + 1
    places = torch.arange(len(mass)).float()
    return [((mass.sum(dim=axis) * places).sum() / mass.sum()).item() for axis in (1, 0)]


def test_images_that_are_not_chosen_come_back_bit_for_bit_with_numbers_of_0():
    torch.manual_seed(0)
    images = torch.rand(500, 1, 8, 8) * 2 - 1
    found, numbers = augmented(images)
    kept = (numbers == 0).all(dim=1)
    assert kept.float().mean() == pytest.approx(0.4, abs=0.07)
    assert torch.equal(found[kept], images[kept])
    assert not (found[~kept] == images[~kept]).flatten(1).all(dim=1).any()
    assert found.abs().max() <= 1
    assert set(numbers[~kept, 0].tolist()) == {0.0, 1.0}
    assert numbers[~kept, 1:5].min() < -0.9
    assert 0 <= numbers[:, 5].min() < numbers[:, 5].max() <= 1


def test_a_mirror_is_a_flip_and_nothing_done_is_nothing_changed(monkeypatch):
    images = torch.rand(3, 1, 9, 9) * 2 - 1
    found, numbers = augmented_by(monkeypatch, images, 1, 0, 0, 0, 0, 0)
    assert numbers.tolist() == [[1, 0, 0, 0, 0, 0]] * 3
    torch.testing.assert_close(found, images.flip(3), atol=1e-4, rtol=0)
    still, _ = augmented_by(monkeypatch, images, -1, 0, 0, 0, 0, 0)
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("numbers", "at"),
    [
        ((-1, 0, 0, 1, 0, 0), (16, 6)),  # a sixteenth of 32 pixels: what is seen moves right, and so the spot left
        ((-1, 0, 0, 0, -0.5, 0), (17, 8)),
        ((1, 0, 0, 1, 0, 0), (16, 25)),  # the spot is at 31 - 8 in the mirror
        ((-1, 0, 1, 0, 0, 0), (15.5 + 0.5 / 1.08, 15.5 - 7.5 / 1.08)),
    ],
)
def test_a_spot_goes_where_the_numbers_say(monkeypatch, numbers, at):
    found, told = augmented_by(monkeypatch, blob(16, 8), *numbers)
    assert middle(found) == pytest.approx(at, abs=0.05)
    assert told[0, 1:].tolist() == pytest.approx(numbers[1:])


def test_a_turn_is_one_of_8_degrees_about_the_middle(monkeypatch):
    found, _ = augmented_by(monkeypatch, blob(15.5, 7.5), -1, 1, 0, 0, 0, 0)
    row, column = (place - 15.5 for place in middle(found))
    assert math.hypot(row, column) == pytest.approx(8, abs=0.05)
    assert abs(math.degrees(math.atan2(row, -column))) == pytest.approx(8, abs=0.3)


def test_what_comes_in_from_outside_is_air(monkeypatch):
    found, _ = augmented_by(monkeypatch, torch.ones(1, 1, 32, 32), -1, 0, 0, 1, 0, 0)
    assert (found[..., -1] == -1).all()
    assert (found[..., :29] == 1).all()


def test_a_bend_moves_places_by_other_amounts(monkeypatch):
    torch.manual_seed(0)
    columns = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    found, _ = augmented_by(monkeypatch, columns, -1, 0, 0, 0, 0, 1)
    shift = (found - columns)[..., 4:-4, 4:-4] / 2  # shares of the image
    assert 0.005 < shift.std() < 0.04
    assert shift.diff(dim=3).abs().max() < 0.02  # in long waves
