"""Plans that do not look at results: what trial N tries is a function of (space, seed, N) alone.

So it does not matter how many workers there are, or how often a study was interrupted. The Sobol sequence is
`strategy.py`'s; here are independent draws, and a grid in random order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from detectune.tuner.strategy import from_unit

Distributions = Mapping[str, BaseDistribution]


def random_point(distributions: Distributions, *, seed: int, number: int) -> dict[str, Any]:
    """A draw for trial `number`, independent of the others."""
    return from_unit(distributions, np.random.default_rng([seed, number]).random(len(distributions)).tolist())


def grid_point(distributions: Distributions, *, seed: int, number: int, trials: int) -> dict[str, Any]:
    """Point `number` of the grid, in an order that is random, so that an interrupted grid is no corner of it."""
    values = grid_values(distributions, trials=trials)
    index = _order(math.prod(len(steps) for steps in values.values()), seed)[number]
    point: dict[str, Any] = {}
    for name, steps in values.items():
        index, position = divmod(index, len(steps))
        point[name] = steps[position]
    return point


def grid_size(distributions: Distributions, *, trials: int) -> int:
    """How many points the grid for `trials` has; more than that where even two values of each knob are."""
    return math.prod(len(steps) for steps in grid_values(distributions, trials=trials).values())


def grid_values(distributions: Distributions, *, trials: int) -> dict[str, list[Any]]:
    """The values of every knob in a grid of at most `trials` points, at least two of each.

    Choices are all taken; intervals, their ends among them, get as many equal steps as fit.
    """
    lists = [len(d.choices) for d in distributions.values() if isinstance(d, CategoricalDistribution)]
    intervals, count = len(distributions) - len(lists), 2
    while intervals and math.prod(lists) * (count + 1) ** intervals <= trials:
        count += 1
    return {name: _steps(distribution, count) for name, distribution in distributions.items()}


def _steps(distribution: BaseDistribution, count: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    ends = (math.log(low), math.log(high)) if distribution.log else (float(low), float(high))
    steps = [ends[0] + (ends[1] - ends[0]) * k / (count - 1) for k in range(count)]
    values = [math.exp(step) for step in steps] if distribution.log else steps
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return [min(max(value, low), high) for value in values]


@lru_cache(maxsize=4)
def _order(size: int, seed: int) -> Sequence[int]:
    order: list[int] = np.random.default_rng(seed).permutation(size).tolist()
    return order
