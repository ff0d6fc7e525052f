"""Plans of exploration: which values trial number N tries, as a function of (space, seed, N) alone.

So it does not matter how many workers there are, or how often a study was interrupted. The unit cube is filled by a
scrambled Sobol sequence (Owen 1998), by independent draws, or by a grid in random order; `at` maps a coordinate onto
a parameter's range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Design = Literal["sobol", "random", "grid"]


def propose(
    design: Design, distributions: Mapping[str, BaseDistribution], *, seed: int, number: int, trials: int
) -> dict[str, Any]:
    """Parameter -> value for trial `number`. `trials` is how many there will be, which a grid must know."""
    names = list(distributions)
    if design == "grid":
        return grid_point(distributions, seed=seed, number=number, trials=trials)
    if design == "sobol":
        point = sobol_point(len(names), seed=seed, number=number)
    else:
        point = np.random.default_rng([seed, number]).random(len(names)).tolist()
    return {name: at(distributions[name], u) for name, u in zip(names, point, strict=True)}


def sobol_point(dimensions: int, *, seed: int, number: int) -> list[float]:
    """Point `number` of the scrambled Sobol sequence of `seed`, in [0, 1)^dimensions."""
    from scipy.stats import qmc  # 0.3 s that a study without it need not pay

    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if number:
        engine.fast_forward(number)
    point: list[float] = engine.random(1)[0].tolist()
    return point


def at(distribution: BaseDistribution, u: float) -> Any:
    """The value of a parameter at coordinate `u` in [0, 1) of its range; choices and integers get equal shares."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        if not distribution.log:
            return int(low) + int(u * (high - low + 1))
        edges = math.log(low - 0.5), math.log(high + 0.5)
        return min(max(round(math.exp(edges[0] + u * (edges[1] - edges[0]))), int(low)), int(high))
    if distribution.log:
        return min(max(math.exp(math.log(low) + u * (math.log(high) - math.log(low))), low), high)
    return low + u * (high - low)


def grid_values(distributions: Mapping[str, BaseDistribution], *, trials: int) -> dict[str, list[Any]]:
    """The values of every parameter in a grid of at most `trials` points, at least two of each.

    Choices are all taken; intervals, their ends among them, get as many equal steps as fit.
    """
    intervals = [name for name, d in distributions.items() if not isinstance(d, CategoricalDistribution)]
    fixed = math.prod(
        len(d.choices) for d in distributions.values() if isinstance(d, CategoricalDistribution)
    )
    count = 2
    while intervals and fixed * (count + 1) ** len(intervals) <= trials:
        count += 1
    return {name: _steps(distribution, count) for name, distribution in distributions.items()}


def grid_size(distributions: Mapping[str, BaseDistribution], *, trials: int) -> int:
    """How many points the grid has; more than `trials` where even two of each are."""
    return math.prod(len(values) for values in grid_values(distributions, trials=trials).values())


def grid_point(
    distributions: Mapping[str, BaseDistribution], *, seed: int, number: int, trials: int
) -> dict[str, Any]:
    """Point `number` of the grid, in an order that is random, so that an interrupted grid is no corner."""
    values = grid_values(distributions, trials=trials)
    index = _order(math.prod(len(v) for v in values.values()), seed)[number]
    point: dict[str, Any] = {}
    for name, steps in values.items():
        index, position = divmod(index, len(steps))
        point[name] = steps[position]
    return point


@lru_cache(maxsize=4)
def _order(size: int, seed: int) -> Sequence[int]:
    order: list[int] = np.random.default_rng(seed).permutation(size).tolist()
    return order


def _steps(distribution: BaseDistribution, count: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, is_log = distribution.low, distribution.high, distribution.log
    ends = (math.log(low), math.log(high)) if is_log else (float(low), float(high))
    steps = [ends[0] + (ends[1] - ends[0]) * k / (count - 1) for k in range(count)]
    values = [math.exp(step) for step in steps] if is_log else steps
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return [min(max(value, low), high) for value in values]
