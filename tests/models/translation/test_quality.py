from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.models.translation.quality import TranslationQuality, both_domains, lookups, measured

SPACES = {
    "source": SliceSpace("mri", (1, 1), 1, (0.0, 700.0)),
    "target": SliceSpace("ct", (1, 1), 1, (-1000.0, 2000.0)),
}


def square(value: float, count: int = 2) -> torch.Tensor:
    images = torch.full((count, 1, 32, 32), -1.0)
    images[..., 8:24, 8:24] = value
    return images


def found(fake_target, fake_source, source, target, mask) -> dict[str, float]:
    quality = TranslationQuality(SPACES)
    quality.reset()
    quality.update(((fake_target, fake_source), (source, target, torch.tensor(mask))))
    engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
    quality.completed(engine, "error")
    return engine.state.metrics


def test_errors_of_ct_are_in_hounsfield_units_and_others_in_percent_of_the_range():
    both = [[True, True]] * 2
    measures = found(square(0.1), square(0.5), square(0.4), square(0.2), both)
    assert measures["mae_target"] == pytest.approx(0.1 / 2 * 3000, rel=0.01)
    assert measures["mae_source"] == pytest.approx(0.1 / 2 * 100, rel=0.01)
    assert measures["psnr_source"] == pytest.approx(10 * math.log10(4 / 0.01), rel=0.01)
    assert measures["error"] == pytest.approx(5, rel=0.01)
    assert list(measures)[0] == "error"


def test_a_perfect_translation_has_no_error():
    measures = found(square(0.2), square(0.4), square(0.4), square(0.2), [[True, True]] * 2)
    assert measures["error"] == measures["mae_target"] == 0
    assert measures["ssim_target"] == pytest.approx(1)


def test_what_lies_outside_the_head_does_not_count():
    fake = square(0.2)
    fake[..., :4, :] = 1
    assert measured(fake, square(0.2), (square(0.2) > -1).float())[:, 0].max() == 0


def test_slices_of_one_domain_do_not_count_beside_pairs():
    nothing = torch.full((2, 1, 32, 32), 9.0)
    fake = torch.cat([square(0.2), nothing])
    real = torch.cat([square(0.2), torch.full((2, 1, 32, 32), -1.0)])
    measures = found(fake, fake, real, real, [[True, True]] * 2 + [[True, False]] * 2)
    assert measures["error"] == 0


class TwoSlices:
    """Of one pair: the target is -1 times the source inside a square, but for a quarter of it; and one alone."""

    contrasts = ()
    mask = np.array([[True, True], [True, False]])
    preprocessing = {"source": SimpleNamespace(neighbours=0)}
    views = {"source": np.array([[0], [1]]), "target": np.array([[2], [-1]])}

    def __init__(self) -> None:
        source, alone = square(0.5, 1), square(0.9, 1)
        source[..., 8:16] = torch.where(source[..., 8:16] > -1, -0.5, -1.0)
        target = torch.where(source > -1, -source, -1)
        self.stored_slices = SimpleNamespace(read=lambda rows: torch.stack([source, alone, target])[rows, 0, 0])


def test_the_lookup_is_the_mean_of_the_pairs_and_its_error_stands_beside():
    train = TwoSlices()
    found_lookups = lookups(train)
    assert found_lookups["target"](np.array([0.5, -0.5])) == pytest.approx([-0.5, 0.5], abs=1e-6)
    quality = TranslationQuality(SPACES, train=train)
    quality.reset()
    truth = square(0.5), square(-0.3)
    quality.update(((truth[1], truth[0]), (*truth, torch.tensor([[True, True]] * 2))))
    measures = quality.compute()
    assert measures["error"] == 0
    assert measures["error_lookup"] == pytest.approx((0.2 + 0.2) / 2 / 2 * 100, rel=0.01)


def test_without_pairs_texture_is_compared():
    torch.manual_seed(0)
    noise = torch.rand(4, 1, 32, 32) * 2 - 1
    mask = [[True, False]] * 2 + [[False, True]] * 2
    alike = found(noise.roll(1, 0), noise.roll(1, 0), noise, noise, mask)
    flat = found(0 * noise, 0 * noise, noise, noise, mask)
    assert set(alike) == {"error", "swd_source", "swd_target"}
    assert alike["error"] < flat["error"]
    assert flat["error"] == pytest.approx((flat["swd_source"] + flat["swd_target"]) / 2)


def test_a_batch_of_pairs_is_prepared_for_both_directions():
    stacks = torch.arange(2 * 3 * 4).float().view(2, 3, 2, 2)
    batch = {"source": stacks, "target": -stacks, "position": torch.tensor([0.1, 0.9])}
    source, truth, others, named = both_domains(batch | {"mask": torch.ones(2, 2).bool()}, torch.device("cpu"))
    assert torch.equal(source, stacks)
    assert torch.equal(truth[0], stacks[:, 1:2])
    assert torch.equal(truth[1], -stacks[:, 1:2])
    assert torch.equal(others[0], -stacks)
    assert torch.equal(others[1], others[2])
    assert named == {}
