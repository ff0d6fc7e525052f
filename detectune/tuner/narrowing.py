"""The space of the next round: wider where the best crowd at an edge, without what diverges, near the good trials.

A pure function of a round's history. Choices stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from detectune.tuner import thresholds as at
from detectune.tuner.gates import boundary, infeasible, ranked
from detectune.tuner.history import Dimension, History, Space, Trial
from detectune.tuner.regions import at_position, position, with_range


@dataclass(frozen=True)
class Change:
    """A range that is another in the next round, and why."""

    key: str
    before: tuple[float, float]
    after: tuple[float, float]
    why: str

    def __str__(self) -> str:
        (low, high), (new_low, new_high) = self.before, self.after
        return f"{self.key}: {low:g} to {high:g} becomes {new_low:g} to {new_high:g}, as {self.why}."


def next_space(history: History) -> tuple[Space, list[Change]]:
    """The space and what is different in it."""
    complete = ranked(history)
    good = complete[: max(at.GOOD_LEAST, math.ceil(at.GOOD_PART * len(complete)))]
    edges = {edge["key"]: edge for edge in boundary(history).data.get("edges", ())}
    lost = infeasible(history).data
    dimensions, changes = [], []
    for dimension in history.space:
        new, why = dimension, list[str]()
        if dimension.choices is None:
            new, why = _near(dimension, good)
            if dimension.key in edges:
                edge = edges[dimension.key]
                low, high = new.low, new.high
                assert low is not None and high is not None
                low, high = (low, edge["high"]) if edge["end"] == "upper" else (edge["low"], high)
                new = with_range(dimension, low, high)
                why = [f"the best crowd at its {edge['end']} end"]
            if lost.get("key") == dimension.key:
                new = _without(new, lost["cut"], above=lost["above"])
                why.append(f"trials {'above' if lost['above'] else 'below'} {lost['cut']:.3g} cannot work")
        dimensions.append(new)
        if (new.low, new.high) != (dimension.low, dimension.high):
            assert dimension.low is not None and dimension.high is not None
            assert new.low is not None and new.high is not None
            before, after = (dimension.low, dimension.high), (new.low, new.high)
            changes.append(Change(dimension.key, before, after, " and ".join(why)))
    return Space(tuple(dimensions)), changes


def _near(dimension: Dimension, good: list[Trial]) -> tuple[Dimension, list[str]]:
    """The part of the range in which the good trials lie, with a margin on both sides."""
    places = [position(dimension, t.params[dimension.key]) for t in good if dimension.key in t.params]
    if len(places) < at.GOOD_LEAST:
        return dimension, []
    low, high = min(places) - at.NARROW_MARGIN, max(places) + at.NARROW_MARGIN
    short = at.NARROW_LEAST - (high - low)
    if short > 0:
        low, high = low - short / 2, high + short / 2
    low, high = max(0.0, low), min(1.0, high)
    if high - low > 1 - at.NARROW_WORTH:
        return dimension, []
    new = with_range(dimension, at_position(dimension, low), at_position(dimension, high))
    return new, ["the good trials lie there"]


def _without(dimension: Dimension, cut: float, *, above: bool) -> Dimension:
    assert dimension.low is not None and dimension.high is not None
    low, high = (
        (dimension.low, min(dimension.high, cut)) if above else (max(dimension.low, cut), dimension.high)
    )
    return with_range(dimension, low, high) if low < high else dimension
