from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from medsynth.errors import MedsynthError
from medsynth.training.guards import FiniteLosses


def run_with(losses: list[float], saved: bool = True) -> Engine:
    """Run an engine whose iterations have these losses, on batches of slices 0 and 1, then 1 and 2, and so on."""

    def step(engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        return {"losses": {"pixel": torch.tensor(losses[engine.state.iteration - 1]), "other": torch.tensor(0.5)}}

    engine = Engine(step)
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(subjects=["anna", "bert", "bert", "carl", "dora"]))
    run = SimpleNamespace(checkpoint=Path("latest.pt"), saved_iteration=0, has_checkpoint=lambda: saved)
    FiniteLosses(run, interval=2).attach(engine)
    engine.run([{"index": torch.tensor([i, i + 1])} for i in range(len(losses))])
    return engine


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2e6, -2e6])
def test_a_loss_that_is_no_good_ends_the_run_with_iteration_patients_and_checkpoint(bad):
    with pytest.raises(MedsynthError) as stopped:
        run_with([1.0, 0.9, bad, 0.8])
    text = str(stopped.value)
    assert text.startswith(f"iteration 3: pixel is {bad:.3g} on a batch of bert, carl; latest.pt, of iteration 0, is")
    assert "other" not in text


def test_before_the_first_checkpoint_the_line_says_so():
    with pytest.raises(MedsynthError, match="there is no checkpoint yet"):
        run_with([float("nan"), 1.0], saved=False)


def test_large_losses_are_no_explosion():
    assert run_with([9e5, -9e5, 1.0, 0.5]).state.iteration == 4
