from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.training.replay import PLAIN_CALLS, RecordingMemory, Replayed

Log = list[str]


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, 2.0]))


@pytest.fixture
def log() -> Log:
    """What was done, in order: `computed`, `recorded` and `replayed`."""
    return []


@pytest.fixture
def compute(weight, log) -> Callable[..., dict[str, Tensor]]:
    """The gradient of `weight` is `images` times 2."""

    def of(images: Tensor) -> dict[str, Tensor]:
        log.append("computed")
        total = (2 * weight * images).sum()
        total.backward()
        return {"total": total.detach()}

    return of


@pytest.fixture(autouse=True)
def recorder(record_on_cpu, weight, log) -> None:
    record_on_cpu([weight], log)


def test_it_computes_plainly_at_first_and_from_its_recording_then(compute, weight, log):
    step = Replayed(compute, [weight], RecordingMemory())
    for call in range(PLAIN_CALLS + 3):
        images = torch.tensor([float(call), 1.0])
        assert step(images=images) == {"total": (2 * weight * images).sum()}
        assert torch.equal(weight.grad, 2 * images)
    assert log == PLAIN_CALLS * ["computed"] + ["recorded", "computed"] + 3 * ["replayed", "computed"]


def test_where_nothing_may_be_recorded_it_computes_plainly(compute, weight, log):
    step = Replayed(compute, [weight], None)
    for _ in range(PLAIN_CALLS + 3):
        step(images=torch.ones(2))
    assert set(log) == {"computed"}


@pytest.mark.parametrize("calls", [1, PLAIN_CALLS + 1, PLAIN_CALLS + 2])
def test_gradients_of_before_are_let_go_of(compute, weight, calls):
    step = Replayed(compute, [weight], RecordingMemory())
    for _ in range(calls):
        weight.grad = torch.full((2,), 100.0)
        step(images=torch.ones(2))
    assert torch.equal(weight.grad, torch.full((2,), 2.0))


def test_results_stay_what_they_were_when_it_is_called_again(compute, weight):
    step = Replayed(compute, [weight], RecordingMemory())
    found = [step(images=torch.full((2,), float(call)))["total"] for call in range(PLAIN_CALLS + 3)]
    assert torch.stack(found).tolist() == [6.0 * call for call in range(PLAIN_CALLS + 3)]


def test_two_recordings_of_one_network_have_gradients_of_their_own(compute, weight):
    def half(images: Tensor) -> dict[str, Tensor]:
        return compute(images / 2)

    steps = [Replayed(work, [weight], RecordingMemory()) for work in (compute, half)]
    for _ in range(PLAIN_CALLS + 2):
        for step, gradient in zip(steps, (2.0, 1.0), strict=True):
            step(images=torch.ones(2))
            assert torch.equal(weight.grad, torch.full((2,), gradient))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
class TestOnGpu:
    @pytest.fixture(autouse=True)
    def recorder(self) -> None:
        """The real one."""

    def test_a_cuda_graph_computes_the_same(self):
        network = nn.Linear(8, 8).cuda()

        def compute(images: Tensor) -> dict[str, Tensor]:
            total = (network(images) * torch.rand_like(images)).square().mean()
            total.backward()
            return {"total": total.detach()}

        found = []
        for memory in (None, RecordingMemory()):
            torch.manual_seed(0)
            step, images = Replayed(compute, network.parameters(), memory), torch.ones(4, 8, device="cuda")
            found.append([(step(images=call * images), network.weight.grad.clone()) for call in range(8)])
        for (plain, gradient), (replayed, same_gradient) in zip(*found, strict=True):
            torch.testing.assert_close(replayed, plain)
            torch.testing.assert_close(same_gradient, gradient)

    def test_what_waits_for_a_value_is_refused_with_what_to_do(self):
        step = Replayed(lambda images: {"total": images * images.sum().item()}, [], RecordingMemory())
        for _ in range(PLAIN_CALLS):
            step(images=torch.ones(2, device="cuda"))
        with pytest.raises(MedsynthError, match="--cuda_graphs false"):
            step(images=torch.ones(2, device="cuda"))
