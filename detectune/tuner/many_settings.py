"""Searching thousands of settings that cost milliseconds each: a Sobol sequence first, then steps around the best.

What is tried follows from (space, seed) and the scores alone. A knob whose condition does not hold is left out of a
setting, and keeps its value in the base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from detectune.tuner.distributions import distributions_of, parameter_name, value_of
from detectune.tuner.history import Space
from detectune.tuner.strategy import from_unit

EXPLORE = 0.5  # ours: this part of the settings covers the space evenly, whatever the scores
ELITE = 10  # ours: steps set out from one of so many best
FIRST_STEP, LAST_STEP = 0.25, 0.02  # ours: standard deviation of a step, as part of a range
CHANGED = 0.5  # ours: part of the knobs that a step moves
SIMPLER = 5e-4  # ours: what a setting may lose to have one change less


@dataclass(frozen=True)
class Tried:
    """A setting and its score; NaN where the values contradict each other."""

    number: int
    values: Mapping[str, Any]
    score: float
    explored: bool  # drawn evenly from the space


def search(
    space: Space,
    base: Mapping[str, Any],
    score: Callable[[Mapping[str, Any]], float],
    *,
    settings: int,
    seed: int,
    seconds: float | None = None,
    told: Callable[[Tried], None] = lambda tried: None,
) -> list[Tried]:
    """Up to `settings` settings, fewer if the time runs out; the first one is the base's own values.

    Args:
        space: what is searched.
        base: the values of all keys.
        score: higher is better.
    """
    started = time.monotonic()
    generator = np.random.default_rng(seed)
    explore = max(1, round(EXPLORE * settings))
    points = (
        qmc.Sobol(len(space), seed=seed).random(2 ** int(np.ceil(np.log2(explore)))) if explore > 1 else []
    )
    tried, places = [Tried(0, {}, score({}), False)], [np.full(len(space), 0.5)]
    told(tried[0])
    for number in range(1, settings):
        if seconds is not None and time.monotonic() - started > seconds:
            break
        explored = number <= explore and number <= len(points)
        place = points[number - 1] if explored else _step(tried, places, generator, number / settings)
        values = setting_at(space, base, place)
        tried.append(Tried(number, values, score(values), explored))
        places.append(place)
        told(tried[-1])
    return tried


def setting_at(space: Space, base: Mapping[str, Any], place: np.ndarray) -> dict[str, Any]:
    """The knobs that exist at a point of the unit cube, key -> value."""
    parameters = from_unit(distributions_of(space), place.tolist())
    values: dict[str, Any] = {}
    for dimension in space:  # a knob stands behind those that its condition names
        if dimension.exists({**base, **values}):
            values[dimension.key] = value_of(dimension, parameters[parameter_name(dimension)])
    return values


def simplified(
    values: Mapping[str, Any],
    best: float,
    base: Mapping[str, Any],
    score: Callable[[Mapping[str, Any]], float],
) -> tuple[dict[str, Any], float]:
    """The values without those changes that gain next to nothing, and what is left of the score."""
    kept = {key: value for key, value in values.items() if base[key] != value}
    floor = best - SIMPLER
    while kept:
        without = [(score({k: v for k, v in kept.items() if k != key}), key) for key in kept]
        top, key = max(without, key=lambda pair: (pair[0] == pair[0], pair[0]))
        if not top >= floor:
            break
        del kept[key]
    return kept, score(kept)


def _step(
    tried: list[Tried], places: list[np.ndarray], generator: np.random.Generator, progress: float
) -> np.ndarray:
    """A point near one of the best."""
    known = [i for i, one in enumerate(tried) if one.score == one.score and one.values]
    if not known:
        return generator.random(len(places[0]))
    best = sorted(known, key=lambda i: -tried[i].score)[:ELITE]
    origin = places[best[int(generator.integers(len(best)))]]
    late = min(1.0, max(0.0, (progress - EXPLORE) / (1 - EXPLORE)))
    size = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** late
    moved = generator.random(len(origin)) < CHANGED
    moved[generator.integers(len(origin))] = True
    place = origin + moved * generator.normal(0, size, len(origin))
    place = np.abs(place)  # reflected at the borders of the cube
    place = np.where(place > 1, 2 - place, place)
    return np.clip(place, 0.0, 1.0 - 1e-9)
