"""How a value is looked up in what was built: a path of attributes, and how what lies there compares with the value.

    at("model.rpn.sampling.high")                       equal, or to single precision
    at("model.box_head.fc1", take=lambda layer: ...)    what is there says it in another form
    at("model.rpn.train_rule.min_size", same=at_least)  what is there may differ from the value, in one way

Knows nothing about keys; `places.py` has one line for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = object()
"""What a path that does not lead on comes to: a run of this kind has no such place."""

Same = Callable[[Any, Any], bool]
"""(what was found, the value) -> whether the one is what the other should have made."""


@dataclass(frozen=True)
class Place:
    """Where the value of a key lies.

    Attributes:
        name: for people: the path.
        look: from what was built to what lies there, or ABSENT.
    """

    name: str
    look: Callable[[Any], Any]
    same: Same


def same(found: Any, value: Any) -> bool:
    """Equal; numbers may be kept in single precision, lists as tuples."""
    if isinstance(found, float) and isinstance(value, int | float):
        return math.isclose(found, value, rel_tol=1e-6)
    if isinstance(found, list | tuple) and isinstance(value, list | tuple):
        return len(found) == len(value) and all(map(same, found, value))
    return bool(found == value)


def about(found: Any, value: Any) -> bool:
    """Equal to a tenth: sides of anchors, which a dialect may round to whole pixels. Lists are compared sorted."""
    if isinstance(found, list | tuple):
        ordered = zip(sorted(found), sorted(value), strict=False)
        return len(found) == len(value) and all(about(*pair) for pair in ordered)
    return math.isclose(found, value, rel_tol=0.1)


def at(*paths: str, take: Callable[[Any], Any] | None = None, same: Same = same) -> Place:
    """The first of `paths` that leads somewhere; `take` says in terms of the key what lies there."""

    def look(built: Any) -> Any:
        for path in paths:
            found = follow(built, path)
            if found is not ABSENT:
                return found if take is None else take(found)
        return ABSENT

    return Place(" or ".join(paths), look, same)


def follow(value: Any, path: str) -> Any:
    """The end of a path of attributes, and of positions in lists; ABSENT where it does not lead on."""
    for step in path.split("."):
        if isinstance(value, Sequence) and step.isdigit():
            value = value[int(step)] if int(step) < len(value) else ABSENT
        else:
            value = getattr(value, step, ABSENT)
        if value is ABSENT:
            return ABSENT
    return value


def is_there(found: Any) -> bool:
    """For parts that are switched on or off: None is off."""
    return found is not None


def group_of(name: str, *, of: str = "") -> Place:
    """An entry of the optimiser's groups of parameters; `of` names one kind of group."""

    def look(built: Any) -> Any:
        groups = [group for group in built.solver.optimizer.param_groups if of in ("", group["name"])]
        if not groups or not all(name in group for group in groups):
            return ABSENT
        values = [group[name] for group in groups]
        return values[0] if all(value == values[0] for value in values) else values

    return Place(f"solver.optimizer.param_groups[{of or 'all'}].{name}", look, same)
