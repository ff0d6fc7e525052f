"""Ranges of knobs: where a value lies in one, the range that is longer at an end, the part in which the best lie.

Pure functions of dimensions. Everything is measured on the knob's own scale, and no range leaves the legal values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from detectune.config.catalogue import KNOBS
from detectune.tuner import thresholds as at
from detectune.tuner.history import Dimension


def position(dimension: Dimension, value: float) -> float:
    """Where a value lies in its range, 0 to 1, on the knob's scale."""
    ahead = _transform(dimension)
    assert dimension.low is not None and dimension.high is not None
    low, high = ahead(dimension.low), ahead(dimension.high)
    return (ahead(float(value)) - low) / (high - low)


def widened(dimension: Dimension, *, high: bool) -> tuple[float, float]:
    """The range, longer at one end by WIDEN of itself on its scale, as far as the knob's values are legal."""
    low_end, high_end = _widened(dimension, high=high)
    return _legal(dimension, low_end, high_end)


def _widened(dimension: Dimension, *, high: bool) -> tuple[float, float]:
    assert dimension.low is not None and dimension.high is not None
    low_end, high_end = dimension.low, dimension.high
    if dimension.scale == "log":
        factor = (high_end / low_end) ** at.WIDEN
        return (low_end, high_end * factor) if high else (low_end / factor, high_end)
    if dimension.scale == "one_minus_log":
        factor = ((1 - low_end) / (1 - high_end)) ** at.WIDEN
        return (low_end, 1 - (1 - high_end) / factor) if high else (1 - (1 - low_end) * factor, high_end)
    more = at.WIDEN * (high_end - low_end)
    return (low_end, high_end + more) if high else (low_end - more, high_end)


def at_position(dimension: Dimension, place: float) -> float:
    """The value at a place of the range, 0 to 1; the inverse of `position`."""
    assert dimension.low is not None and dimension.high is not None
    low, high = dimension.low, dimension.high
    if dimension.scale == "log":
        return float(low * (high / low) ** place)
    if dimension.scale == "one_minus_log":
        return float(1 - (1 - low) * ((1 - high) / (1 - low)) ** place)
    return low + place * (high - low)


def with_range(dimension: Dimension, low: float, high: float) -> Dimension:
    """The dimension over another range; of whole numbers over whole ends."""
    if dimension.type == "int":
        low, high = math.floor(low), math.ceil(high)
    else:
        low, high = float(f"{low:.4g}"), float(f"{high:.4g}")
    return replace(dimension, low=low, high=high) if low < high else dimension


def _legal(dimension: Dimension, low: float, high: float) -> tuple[float, float]:
    """The range without what the knob does not allow; an end that may not be reached stays where it was."""
    legal = KNOBS[dimension.key].range if dimension.key in KNOBS else None
    if legal is None:
        return low, high
    assert dimension.low is not None and dimension.high is not None
    if legal.ge is not None:
        low = max(low, legal.ge)
    if legal.le is not None:
        high = min(high, legal.le)
    return (low if low in legal else dimension.low), (high if high in legal else dimension.high)


def _transform(dimension: Dimension) -> Callable[[float], float]:
    if dimension.scale == "log":
        return math.log
    if dimension.scale == "one_minus_log":
        return lambda value: -math.log(1 - value)
    return lambda value: value
