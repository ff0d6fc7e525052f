"""Rates on a quadratic, whose critical rate is known: 2 / curvature, and 2 (1 + momentum) / curvature with momentum."""

from __future__ import annotations

import math

import pytest

from detectune.tuner.planners.rates import Probe, find_rate
from detectune.tuner.thresholds import RATE_PRECISION as PRECISION


def quadratic(curvatures: list[float], *, momentum: float = 0.0, steps: int = 200) -> Probe:
    def probe(rate: float) -> tuple[float, float | None]:
        places, speeds = [1.0] * len(curvatures), [0.0] * len(curvatures)
        for _ in range(steps):
            for i, curvature in enumerate(curvatures):
                speeds[i] = momentum * speeds[i] + curvature * places[i]
                places[i] -= rate * speeds[i]
                if not math.isfinite(places[i]) or abs(places[i]) > 1e150:
                    return sum(curvatures) / 2, None
        return sum(curvatures) / 2, sum(c * x * x / 2 for c, x in zip(curvatures, places, strict=True))

    return probe


@pytest.mark.parametrize("curvatures", [[1.0], [100.0], [0.01, 3.0, 40.0]])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_critical_rate_of_a_quadratic_is_found(curvatures: list[float], momentum: float) -> None:
    critical = 2 * (1 + momentum) / max(curvatures)
    advice = find_rate(quadratic(curvatures, momentum=momentum), low=1e-5, high=10.0)
    assert advice.critical is not None and advice.best is not None and advice.start is not None
    assert critical / 1.01 <= advice.critical <= critical * PRECISION * 1.01
    assert advice.best < critical and advice.start <= critical / 2 * PRECISION * 1.01


def test_a_start_is_the_highest_rate_that_is_about_as_good() -> None:
    """From 0.1 to 1 the loss falls alike; above 1 it does not fall."""

    def plateau(rate: float) -> tuple[float, float | None]:
        return 2.0, 2.5 if rate > 1 else 2 - min(1.0, rate / 0.1)

    advice = find_rate(plateau, low=1e-4, high=100.0)
    assert advice.critical == pytest.approx(1, rel=0.06) and advice.start == pytest.approx(0.5, rel=0.06)
    assert "Start from 0.5" in advice.text


def test_when_every_rate_learns_or_none_does_it_says_where_to_look() -> None:
    all_learn = find_rate(lambda rate: (1.0, 1.0 - rate / 100), low=1e-3, high=1.0)
    assert all_learn.critical is None and "--high" in all_learn.text and all_learn.start == pytest.approx(1)
    none = find_rate(lambda rate: (1.0, None), low=1e-3, high=1.0)
    assert none.start is None and "--low" in none.text


def test_noise_at_rates_that_are_too_low_to_do_anything_is_not_the_critical_rate() -> None:
    found = find_rate(
        lambda rate: (1.0, 1.0 + 1e-6 if rate < 1e-3 else 0.5 if rate < 0.1 else 7.0), low=1e-6, high=10.0
    )
    assert found.critical == pytest.approx(0.1, rel=0.06)
