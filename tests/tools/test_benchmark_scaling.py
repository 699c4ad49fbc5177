from __future__ import annotations

import pytest

from medsynth.errors import MedsynthError


@pytest.fixture
def scaling(benchmark):
    return benchmark("scaling")


def test_the_rate_leaves_the_first_rows_out(scaling):
    assert scaling.rate({"seconds": [60, 70, 80, 100], "images": [10, 110, 410, 1010]}) == pytest.approx(900 / 30)


def test_a_run_too_short_for_a_rate_is_refused(scaling):
    with pytest.raises(MedsynthError, match="more --minutes"):
        scaling.rate({"seconds": [60, 70], "images": [10, 110]})
