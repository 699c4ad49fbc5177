from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.models.flow import network as flow_network
from medsynth.models.flow.network import AUGMENTATION_NUMBERS, SOLVER_STEPS, LatentFlow, unknown

SHAPE = (3, 4, 4)


@pytest.fixture
def flow() -> LatentFlow:
    """One that has learned nothing."""
    torch.manual_seed(0)
    return LatentFlow(3, 4, [32, 64], 0.0, num_classes=2, use_position=True, covariates=("age",)).eval()


@pytest.fixture
def busy(flow) -> LatentFlow:
    """One whose every parameter matters, of a training set of 40 images."""
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    latents = 2 + 3 * torch.randn(40, *SHAPE)
    flow.fit(latents, torch.arange(40) % 2, torch.rand(40), 20 + torch.arange(40.0)[:, None])
    return flow


def facts(count: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.arange(count) % 2, torch.linspace(0, 1, count), torch.linspace(20, 59, count)[:, None]


def test_an_untrained_flow_takes_noise_to_itself(flow):
    noise = torch.randn(5, *SHAPE)
    torch.testing.assert_close(flow.travel(noise, None, None, None), noise, atol=5e-3, rtol=5e-3)
    halfway = flow_network.heun(
        lambda points, time: flow.velocity(points, torch.full((5,), time), torch.zeros(5, 128)), noise, 0.0, 0.5, 20
    )
    torch.testing.assert_close(halfway, noise * 0.5**0.5, atol=5e-3, rtol=5e-3)  # the deviation between the two


def test_the_velocity_of_a_flow_that_knows_the_target_leads_from_noise_to_latents(flow, monkeypatch):
    latents, noise, time = torch.randn(4, *SHAPE), torch.randn(4, *SHAPE), torch.tensor([0.0, 0.3, 0.8, 1.0])
    share = time[:, None, None, None]
    root = (share**2 + (1 - share) ** 2).sqrt()
    monkeypatch.setattr(flow, "forward", lambda *_: ((1 - share) * latents - share * noise) / root)
    found = flow.velocity(share * latents + (1 - share) * noise, time, None)
    torch.testing.assert_close(found, latents - noise)


@pytest.fixture
def gaussian(flow, monkeypatch) -> LatentFlow:
    """What training would end with if all numbers of latents were normal, of mean 2 and deviation 0.5."""

    def best(noisy: Tensor, time: Tensor, *_: object) -> Tensor:
        share = time[:, None, None, None]
        variance = 0.25 * share**2 + (1 - share) ** 2
        away = noisy - 2 * share
        latents, noise = 2 + 0.25 * share / variance * away, (1 - share) / variance * away
        return ((1 - share) * latents - share * noise) / (share**2 + (1 - share) ** 2).sqrt()

    monkeypatch.setattr(flow, "forward", best)
    return flow


@pytest.mark.parametrize("time", [0.0, 0.4, 1.0])
def test_the_velocity_of_a_gaussian_has_its_closed_form(gaussian, time):
    points = torch.randn(6, *SHAPE)
    slope = (0.25 * time - (1 - time)) / (0.25 * time**2 + (1 - time) ** 2)
    found = gaussian.velocity(points, torch.full((6,), time), None)
    torch.testing.assert_close(found, 2 + slope * (points - 2 * time), atol=1e-5, rtol=1e-5)


def test_noise_travels_to_the_gaussian_and_back(gaussian):
    noise = torch.randn(200, *SHAPE)
    latents = gaussian.travel(noise, None, None, None, steps=40)
    torch.testing.assert_close(latents, 2 + 0.5 * noise, atol=5e-3, rtol=5e-3)
    back = gaussian.travel(latents, None, None, None, steps=40, backwards=True)
    torch.testing.assert_close(back, noise, atol=2e-2, rtol=2e-2)


def test_there_and_back_gives_the_latents_that_it_was_fitted_to(busy):
    latents = 2 + 3 * torch.randn(6, *SHAPE)
    noise = busy.travel(latents, *facts(6), steps=30, backwards=True)
    assert (noise - busy.normalize(latents)).abs().mean() > 0.05
    torch.testing.assert_close(busy.travel(noise, *facts(6), steps=30), latents, atol=0.05, rtol=0.01)


def evaluations(flow: LatentFlow, **how: object) -> int:
    """Calls of the network on the way."""
    calls = []
    hook = flow.network.register_forward_pre_hook(lambda *_: calls.append(True))
    flow.travel(torch.randn(2, *SHAPE), *facts(2), **how)
    hook.remove()
    return len(calls)


def test_guidance_takes_twice_the_evaluations_and_1_takes_none_more(flow):
    assert evaluations(flow) == 2 * SOLVER_STEPS
    assert evaluations(flow, steps=3) == 6
    assert evaluations(flow, steps=3, guidance=2.0) == 12


def test_guidance_goes_beyond_what_conditions_change_in_a_straight_line(busy, monkeypatch):
    monkeypatch.setattr(busy, "forward", lambda noisy, time, condition, *_: condition.mean() * torch.ones_like(noisy))
    noise, conditions = torch.randn(1, *SHAPE), (torch.tensor([1]), torch.tensor([0.3]), torch.tensor([[50.0]]))
    free, plain, double = (
        busy.travel(noise, *given, guidance=guidance)
        for given, guidance in (((None, None, None), 1.0), (conditions, 1.0), (conditions, 2.0))
    )
    assert (plain - free).abs().min() > 1e-3
    torch.testing.assert_close(double - free, 2 * (plain - free))
    torch.testing.assert_close(busy.travel(noise, *conditions, guidance=0.0), free)


def test_every_condition_the_time_and_the_augmentation_change_what_the_network_says(busy):
    noisy, plain = torch.randn(1, *SHAPE), (torch.tensor([0]), torch.tensor([0.3]), torch.tensor([[50.0]]))
    changed = {0: torch.tensor([1]), 1: torch.tensor([0.9]), 2: torch.tensor([[30.0]])}
    first = busy(noisy, torch.tensor([0.5]), busy.embed(*plain, noisy))
    for index, value in changed.items():
        for other in (value, None):
            given = [other if place == index else fact for place, fact in enumerate(plain)]
            assert not torch.allclose(busy(noisy, torch.tensor([0.5]), busy.embed(*given, noisy)), first)
    condition = busy.embed(*plain, noisy)
    assert not torch.allclose(busy(noisy, torch.tensor([0.6]), condition), first)
    for number in range(AUGMENTATION_NUMBERS):
        numbers = nn.functional.one_hot(torch.tensor([number]), AUGMENTATION_NUMBERS).float()
        assert not torch.allclose(busy(noisy, torch.tensor([0.5]), condition, numbers), first)


def test_images_as_they_are_have_no_augmentation_and_so_have_drawn_ones(busy, monkeypatch):
    noisy, time = torch.randn(3, *SHAPE), torch.rand(3)
    condition = busy.embed(*facts(3), noisy)
    zeros = torch.zeros(3, AUGMENTATION_NUMBERS)
    assert torch.equal(busy(noisy, time, condition, zeros), busy(noisy, time, condition))
    monkeypatch.setattr(busy.augmentation, "forward", lambda numbers: pytest.fail("an augmentation is drawn"))
    busy.sample(2, 0)


def test_a_fitted_flow_normalizes_each_channel_and_knows_the_training_set(flow):
    scale, at = torch.tensor([0.1, 1.0, 7.0])[:, None, None], torch.tensor([3.0, 0.0, -5.0])[:, None, None]
    latents = at + scale * torch.randn(50, *SHAPE)
    assert not flow.is_fitted
    flow.fit(latents, torch.tensor([0, 1, 1, 1]), torch.full((4,), 0.5), torch.tensor([[30.0], [40], [50], [60]]))
    assert flow.is_fitted
    normal = flow.normalize(latents)
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    drawn, labels, positions, ages = flow.sample(400, 0)
    torch.testing.assert_close(drawn.mean(dim=(0, 2, 3)), at.flatten(), atol=0.5, rtol=0.02)
    torch.testing.assert_close(drawn.std(dim=(0, 2, 3)), scale.flatten(), atol=0, rtol=0.06)
    assert labels.float().mean() == pytest.approx(0.75, abs=0.07)
    assert set(positions.tolist()) == {0.5}
    assert set(ages[labels == 0].flatten().tolist()) == {30.0}


def test_a_channel_that_never_changes_stays_finite(flow):
    flow.fit(torch.full((4, *SHAPE), 2.0), torch.zeros(4), torch.rand(4), torch.rand(4, 1))
    assert flow.normalize(torch.full((1, *SHAPE), 2.0)).abs().max() == 0


def test_samples_depend_on_the_seed_alone(busy):
    first = busy.sample(3, seed=7)
    before = torch.get_rng_state()
    for found, expected in zip(busy.sample(3, seed=7), first, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(busy.sample(3, seed=8)[0], first[0])


def test_how_many_are_drawn_at_once_changes_no_image(busy, monkeypatch):
    whole = busy.sample(5, 0)[0]
    monkeypatch.setattr(flow_network, "DRAWN_AT_ONCE", 2)
    torch.testing.assert_close(busy.sample(5, 0)[0], whole, atol=5e-3, rtol=5e-3)


def test_what_is_requested_comes_out_and_changes_what_is_drawn(busy):
    latents, labels, positions, ages = busy.sample(4, 0, label=1, position=0.25, covariates={"age": 44.0})
    assert labels.tolist() == [1] * 4
    assert positions.tolist() == [0.25] * 4
    assert ages.flatten().tolist() == [44.0] * 4
    for other in ({"label": 0}, {"position": 0.75}, {"covariates": {"age": 21.0}}, {"guidance": 2.0}):
        asked = {"label": 1, "position": 0.25, "covariates": {"age": 44.0}} | other
        assert not torch.allclose(busy.sample(4, 0, **asked)[0], latents, atol=1e-3)


def test_all_conditions_are_unknown_of_the_images_whose_are_lost():
    label, position, ages = torch.ones(4, dtype=torch.long), torch.full((4,), 0.5), torch.full((4, 2), 70.0)
    lost = torch.tensor([True, False, False, True])
    found = unknown(lost, label, position, ages)
    assert found[0].tolist() == [-1, 1, 1, -1]
    assert torch.equal(found[1].isnan(), lost)
    assert torch.equal(found[2].isnan(), lost[:, None].expand(-1, 2))
    assert torch.equal(found[2][~lost], ages[~lost])


def test_an_unknown_condition_is_the_same_as_none(busy):
    noise = torch.randn(2, *SHAPE)
    unknown = torch.tensor([-1, -1]), torch.full((2,), torch.nan), torch.full((2, 1), torch.nan)
    assert torch.equal(busy.travel(noise, *unknown), busy.travel(noise, None, None, None))


def test_dropout_is_for_training_alone(busy):
    flow = LatentFlow(3, 4, [32, 32], 0.5)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    noisy, time, condition = torch.randn(1, *SHAPE), torch.tensor([0.5]), torch.zeros(1, 64)
    assert not torch.equal(flow(noisy, time, condition), flow(noisy, time, condition))
    flow.eval()
    assert torch.equal(flow(noisy, time, condition), flow(noisy, time, condition))


@pytest.mark.parametrize("channels", [[32], [32, 48], [16, 32], [0, 32], [32, 32, 32], [32, 64.0]])
def test_channels_that_do_not_do_are_refused_with_some_that_do(channels):
    with pytest.raises(MedsynthError, match="prior_channels is .*: give two multiples of 32, such as"):
        LatentFlow(3, 4, channels, 0.0)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, "half"])
def test_a_dropout_that_makes_no_sense_is_refused(dropout):
    with pytest.raises(MedsynthError, match=f"dropout is {dropout!r}"):
        LatentFlow(3, 4, [32, 32], dropout)


def test_a_flow_over_volumes_travels_and_its_network_is_told_what_is_given():
    torch.manual_seed(0)
    flow = LatentFlow(2, (4, 6, 2), [32, 32], 0.0, use_position=False, augmentation_numbers=3, given_channels=1).eval()
    flow.fit(torch.randn(5, 2, 4, 6, 2), torch.full((5,), -1), torch.full((5,), torch.nan), torch.empty(5, 0))
    nn.init.normal_(flow.network.head.weight)
    noise, given = torch.randn(3, 2, 4, 6, 2), torch.randn(3, 1, 4, 6, 2)
    found = flow.travel(noise, None, None, None, steps=2, given=given)
    assert found.shape == noise.shape
    assert not torch.allclose(found, flow.travel(noise, None, None, None, steps=2, given=-given))
    told = flow(noise, torch.full((3,), 0.5), flow.embed(None, None, None, noise), torch.ones(3, 3), given)
    assert told.shape == noise.shape


def test_a_local_flow_says_the_same_of_a_place_wherever_it_lies():
    torch.manual_seed(0)
    flow = LatentFlow(2, (16, 16, 16), [32, 32], 0.0, use_position=False, is_local=True).eval()
    nn.init.normal_(flow.network.head.weight)
    noise = torch.randn(1, 2, 64, 2, 2)
    condition, time = flow.embed(None, None, None, noise), torch.full((1,), 0.5)
    whole, part = flow(noise, time, condition), flow(noise[:, :, 2:], time, condition)
    torch.testing.assert_close(whole[:, :, 44:], part[:, :, 42:])
    assert not torch.allclose(whole[:, :, 2:4], part[:, :, :2])
