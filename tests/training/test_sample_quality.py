from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from medsynth.training.sample_quality import ReconstructionQuality, SampleQuality, lower_is_better


class Sampler(nn.Module):
    """Gives back the images it holds, and draws random numbers as any generator does."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        self.asked: list[tuple[int, int]] = []

    def sample(self, count: int, seed: int) -> tuple[Tensor, None, None]:
        self.asked.append((count, seed))
        torch.randn(5)
        return self.images[:count], None, None


class Slices:
    """As much of a `SliceDataset` as the floor needs."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices) -> Tensor:
        return self.images[indices][:, 0]


def pictures(count: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")


def validate(metric, batches: list[tuple[Tensor, Tensor]], name: str = "quality") -> dict[str, float]:
    """The metrics of a validator that predicts the first of each pair for the second."""
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, name)
    return engine.run(batches).metrics


def test_lower_is_better():
    assert lower_is_better(0.5, 1.0)
    assert not lower_is_better(1.0, 1.0)


def test_a_reconstruction_measure_is_the_mean_over_images_not_batches():
    def largest_difference(fake: Tensor, real: Tensor, data_range: float) -> Tensor:
        assert data_range == 2.0
        return (fake - real).abs().amax(dim=(1, 2, 3))

    zeros, metric = torch.zeros(3, 1, 4, 4), ReconstructionQuality(largest_difference)
    metrics = validate(metric, [(zeros + 1, zeros), (zeros[:1] + 5, zeros[:1])])
    assert metrics["quality"] == pytest.approx((3 * 1 + 5) / 4)


def test_a_second_validation_forgets_the_first():
    metric = ReconstructionQuality(lambda fake, real, data_range: (fake - real).amax(dim=(1, 2, 3)))
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "quality")
    zeros = torch.zeros(2, 1, 4, 4)
    engine.run([(zeros + 1, zeros)])
    assert engine.run([(zeros + 3, zeros)]).metrics["quality"] == 3


def test_samples_that_are_the_real_images_have_their_spectrum_and_sharpness():
    real = pictures(24)
    metric = SampleQuality(Sampler(real), Slices(pictures(24, 7)), count=24)
    metrics = validate(metric, [(real[:10], real[:10]), (real[10:], real[10:])])
    assert metrics["quality"] == metrics["swd_over_floor"]
    assert metrics["psd_db"] == pytest.approx(0, abs=1e-4)
    assert metrics["gradient_ratio"] == pytest.approx(1, abs=1e-4)


def test_worse_samples_measure_worse():
    real = pictures(24)
    noise = 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    slightly, blurred = pictures(24, 1), nn.functional.avg_pool2d(real, 5, 1, 2)
    badly = (slightly + noise).clamp(-1, 1)
    train = Slices(pictures(24, 7))
    measured = [
        validate(SampleQuality(Sampler(fake), train, count=24), [(real, real)]) for fake in (slightly, badly, blurred)
    ]
    assert measured[0]["quality"] < measured[1]["quality"]
    assert measured[0]["psd_db"] < measured[1]["psd_db"]
    assert measured[1]["gradient_ratio"] > 1.2
    assert measured[2]["gradient_ratio"] < 0.9


def test_radiomics_can_stand_for_all_and_see_grain():
    real, fake = pictures(60), pictures(60, 1)
    train = Slices(pictures(60, 7))
    grain = (fake + 0.1 * torch.randn(fake.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    same, others, grainy = (
        validate(SampleQuality(Sampler(images), train, count=60, key="fd_radiomics"), [(real, real)])
        for images in (real, fake, grain)
    )
    assert same["quality"] == same["fd_radiomics"] == pytest.approx(0, abs=1e-3)
    assert 0 < others["fd_radiomics"] < grainy["fd_radiomics"]
    assert next(iter(others)) == "fd_radiomics"


def test_other_real_images_measure_about_one_and_the_scales_stand_beside():
    train, fake, real = pictures(200, 7), pictures(200, 1), pictures(200)
    metrics = validate(SampleQuality(Sampler(fake), Slices(train), count=200), [(real, real)])
    assert metrics["quality"] == pytest.approx(1, abs=0.3)
    assert {"swd_32", "swd_16"} <= set(metrics)


def test_a_scale_counts_as_a_multiple_of_its_floor():
    real, fake, train = pictures(24), pictures(24, 1), pictures(24, 7)
    mine = validate(SampleQuality(Sampler(fake), Slices(train), count=24), [(real, real)])
    floor = validate(SampleQuality(Sampler(train), Slices(train), count=24), [(real, real)])
    assert floor["quality"] == pytest.approx(1)
    assert mine["quality"] == pytest.approx(sum(mine[f"swd_{size}"] / floor[f"swd_{size}"] for size in (32, 16)) / 2)


def test_as_many_samples_are_drawn_as_asked_for_with_the_seed():
    sampler = Sampler(pictures(8))
    validate(SampleQuality(sampler, Slices(pictures(8, 7)), count=8, seed=3), [(pictures(20), pictures(20))])
    assert sampler.asked == [(8, 3)]


def test_it_leaves_the_random_numbers_of_training_alone():
    real, state = pictures(8), torch.get_rng_state()
    validate(SampleQuality(Sampler(real), Slices(pictures(8, 7)), count=8), [(real, real)])
    assert torch.equal(torch.get_rng_state(), state)


def test_where_no_images_are_to_be_drawn_nothing_is_measured():
    sampler = Sampler(pictures(4))
    metric = SampleQuality(sampler, Slices(pictures(4, seed=1)), count=0)
    assert validate(metric, [(pictures(4), pictures(4))]) == {}
    assert not sampler.asked
