"""What a row of the tables is, and how it is tried: two values of one key, one thing to look at.

A row passes if the two values are held by the configuration and what is observed differs. Observations are computed
once for equal configurations, and are plain values: a number that is not finite is refused, since it differs from
itself and so would let a dead knob pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from detectune.config.load import ConfigError
from detectune.config.tree import Config


class DeadKnobError(AssertionError):
    """Two values of a key that nothing observed tells apart."""


@dataclass(frozen=True)
class Observer:
    """Something that a configuration decides. `base` holds the overrides under which it is looked at."""

    name: str
    look: Callable[[Config], Any]
    base: Mapping[str, Any]

    def __call__(self, config: Config) -> Any:
        """What is there, as plain values that compare by ==."""
        return plain(self.look(config))


def observer(base: Mapping[str, Any]) -> Callable[[Callable[[Config], Any]], Observer]:
    """Makes an observer of a function from a configuration to anything that `plain` takes."""
    return lambda look: Observer(look.__name__, look, base)


@dataclass(frozen=True)
class Row:
    """One key: values `a` and `b` must show in `observe`, with `context` put over the observer's base.

    `along` are other keys that have to change with `b`, as no configuration has it without them. What they do is
    not the key's doing, so with them `a` must be refused by name, or still be told from `b`.
    """

    key: str
    a: Any
    b: Any
    observe: Observer
    context: Mapping[str, Any] = field(default_factory=dict)
    along: Mapping[str, Any] = field(default_factory=dict)

    def config(self, value: Any, along: Mapping[str, Any]) -> Config:
        """The configuration of the row with one of the values; contexts shared by rows may name the key, too."""
        return Config().with_overrides({**self.observe.base, **self.context, **along, self.key: value})


_SEEN: dict[tuple[str, str], Any] = {}


def observed(observe: Observer, config: Config) -> Any:
    """The observation, from memory where an equal configuration was looked at before."""
    key = (observe.name, repr(sorted(config.diff().items())))
    if key not in _SEEN:
        _SEEN[key] = observe(config)
    return _SEEN[key]


def check(row: Row) -> None:
    """Raises `DeadKnobError` unless the row's two values differ in what is observed."""
    first, second = row.config(row.a, {}), row.config(row.b, row.along)
    held = [config.flat()[row.key] for config in (first, second)]
    if held[0] == held[1]:
        raise DeadKnobError(f"{row.key}: {row.a!r} and {row.b!r} are both held as {held[0]!r}")
    seen = observed(row.observe, second)
    if observed(row.observe, first) == seen:
        raise DeadKnobError(f"{row.key}: {row.a!r} and {row.b!r} give the same {row.observe.name}")
    if row.along and not _is_refused(row) and observed(row.observe, row.config(row.a, row.along)) == seen:
        raise DeadKnobError(
            f"{row.key}: {', '.join(row.along)} alone make the difference in {row.observe.name}"
        )


def check_same(row: Row) -> None:
    """Raises unless the row's two values, which the configuration tells apart, give the same observation."""
    first, second = row.config(row.a, {}), row.config(row.b, row.along)
    assert first.flat()[row.key] != second.flat()[row.key]
    if observed(row.observe, first) != observed(row.observe, second):
        raise AssertionError(f"{row.key}: {row.a!r} and {row.b!r} differ in {row.observe.name}")


def _is_refused(row: Row) -> bool:
    """Whether `a` beside `along` contradicts, and the message names the row's key."""
    try:
        row.config(row.a, row.along)
    except ConfigError as error:
        return re.search(rf"\b{row.key.rpartition('.')[2]}\b", str(error)) is not None
    return False


def plain(value: Any) -> Any:
    """Nested tuples of plain values. Raises for numbers that are not finite and for what has no obvious value."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().float().cpu().numpy())
    if isinstance(value, np.ndarray):
        return (value.shape, plain(value.ravel().tolist()))
    if isinstance(value, Mapping):
        return tuple((str(key), plain(value[key])) for key in sorted(value, key=str))
    if isinstance(value, list | tuple):
        return tuple(plain(member) for member in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"an observation holds {value}, which equals nothing")
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise TypeError(f"an observation holds {type(value).__name__}, whose equality means little")
