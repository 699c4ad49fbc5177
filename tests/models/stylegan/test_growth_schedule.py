from __future__ import annotations

import pytest

from medsynth.errors import MedsynthError
from medsynth.models.stylegan.growth_schedule import GrowingSchedule

PLAN = {"fade_kimg": [1, 2], "stable_kimg": [1, 3], "batch_sizes": [16, 8, 4], "group": 4}


def schedule(image_size: int = 32, grows: bool = True, **changes) -> GrowingSchedule:
    return GrowingSchedule(image_size, grows, **(PLAN | changes))


@pytest.mark.parametrize(
    ("images", "resolution", "alpha", "batch_size"),
    [
        (0, 8, 1.0, 16),
        (999, 8, 1.0, 16),
        (1000, 16, 0.0, 8),
        (1250, 16, 0.25, 8),
        (2000, 16, 1.0, 8),
        (4999, 16, 1.0, 8),
        (5000, 32, 0.0, 4),
        (6500, 32, 0.75, 4),
        (7000, 32, 1.0, 4),
        (9_000_000, 32, 1.0, 4),
    ],
)
def test_phases_by_hand(images, resolution, alpha, batch_size):
    found = schedule()
    found.images = images
    phase = found.now()
    assert (phase.resolution, phase.alpha, phase.batch_size) == (resolution, pytest.approx(alpha), batch_size)


def test_the_last_numbers_count_for_all_finer_resolutions():
    found = schedule(image_size=128)
    assert found.fades == [0, 1000, 2000, 2000, 2000]
    assert found.stables == [1000, 3000, 3000, 3000, 0]
    assert found.batch_sizes == [16, 8, 4, 4, 4]


def test_without_growing_the_last_resolution_is_all_there_is():
    phase = schedule(grows=False).now()
    assert (phase.resolution, phase.alpha, phase.batch_size) == (32, 1.0, 4)


def test_in_a_short_run_growing_takes_half_of_it():
    found = schedule()
    found.fit(1400)  # the plan takes 7000
    assert found.pace == 10
    found.images = 700
    assert (found.now().resolution, found.now().alpha) == (32, 1.0)
    found.images = 525
    assert (found.now().resolution, found.now().alpha) == (32, pytest.approx(0.125))


def test_a_long_run_keeps_the_plan():
    found = schedule()
    found.fit(14_000)
    assert found.pace == 1


def test_its_state_brings_it_back_to_the_same_place():
    found, other = schedule(), schedule()
    found.fit(1400)
    for _ in range(5):
        found.step(100)
    other.load_state_dict(found.state_dict())
    assert other.now() == found.now()
    assert (other.images, other.steps) == (500, 5)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"batch_sizes": [2]}, "a batch of 2: the discriminator compares groups of 4 images, so give a multiple of 4"),
        ({"batch_sizes": [16, 6]}, "a batch of 6"),
        ({"batch_sizes": 16}, "batch_sizes is 16: give a list of numbers"),
        ({"fade_kimg": []}, r"fade_kimg is \[\]: give a list"),
        ({"stable_kimg": [-1]}, r"stable_kimg is \[-1\]"),
        ({"image_size": 48}, "image_size 48"),
    ],
)
def test_a_mistake_is_named(mistake, told):
    with pytest.raises(MedsynthError, match=told):
        schedule(**mistake)
