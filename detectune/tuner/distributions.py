"""Dimensions as Optuna's parameters, and back.

Optuna knows neither our third scale nor lists as choices. A knob near 1 is searched as its distance from 1, under
the name `1 - KEY`; a choice that is no plain value goes by its JSON text. Values of an interval are rounded to six
significant digits, so that a configuration found is one that a person can write down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from detectune.tuner.history import Dimension, Space

DIGITS = 6


def parameter_name(dimension: Dimension) -> str:
    """What Optuna, and its dashboard, call the dimension."""
    return f"1 - {dimension.key}" if dimension.scale == "one_minus_log" else dimension.key


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Where Optuna looks for values."""
    if dimension.choices is not None:
        return CategoricalDistribution([label(choice) for choice in dimension.choices])
    assert dimension.low is not None and dimension.high is not None
    if dimension.type == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.scale == "log")
    if dimension.scale == "one_minus_log":
        low, high = significant(1 - dimension.high), significant(1 - dimension.low)
        return FloatDistribution(low, high, log=True)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.scale == "log")


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Every parameter that a trial can have."""
    return {parameter_name(dimension): distribution_of(dimension) for dimension in space}


def value_of(dimension: Dimension, parameter: Any) -> Any:
    """The knob's value for the value of Optuna's parameter."""
    if dimension.choices is not None:
        return next(choice for choice in dimension.choices if label(choice) == parameter)
    if dimension.type == "int":
        return int(parameter)
    assert dimension.low is not None and dimension.high is not None
    if dimension.scale == "one_minus_log":
        return min(max(significant(1 - significant(parameter), DIGITS * 2), dimension.low), dimension.high)
    return min(max(significant(parameter), dimension.low), dimension.high)


def suggest(trial: Trial, space: Space, base: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> value of the knobs that exist in `trial`, asked in order, so that conditions are known in time.

    `base` has values of keys that are not searched but that conditions may name.
    """
    values: dict[str, Any] = {}
    for dimension in space:
        if dimension.exists({**base, **values}):
            values[dimension.key] = value_of(dimension, _ask(trial, dimension))
    return values


def _ask(trial: Trial, dimension: Dimension) -> Any:
    name, kind = parameter_name(dimension), distribution_of(dimension)
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(name, kind.choices)
    ask: Callable[..., float] = (
        trial.suggest_int if isinstance(kind, IntDistribution) else trial.suggest_float
    )
    assert isinstance(kind, IntDistribution | FloatDistribution)
    return ask(name, kind.low, kind.high, log=kind.log)


def label(choice: Any) -> str | int | float | bool | None:
    """A choice as Optuna stores it."""
    if choice is None or isinstance(choice, str | int | float | bool):
        return choice
    return json.dumps(choice)


def significant(value: float, digits: int = DIGITS) -> float:
    """`value` rounded to significant digits."""
    return float(f"{value:.{digits}g}")
