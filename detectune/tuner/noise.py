"""Whether a difference is more than noise: two samples of one metric over seeds, an interval, and one of three words.

Welch's interval (1947, Biometrika 34) needs neither pairs nor equal spreads and is the one that decides unless pairs
are asked for: the same seed under other settings shares little luck, and pairs that share none cost half of the
degrees of freedom. Pure functions of numbers; lower is better where `maximize` is False.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from detectune.errors import UserError
from detectune.tuner.thresholds import CONFIDENCE, MOST_SEEDS

Method = Literal["welch", "paired"]
Word = Literal["better", "tie", "worse"]


@dataclass(frozen=True)
class Difference:
    """How much better the second sample is than the first: above 0 it is, whichever way the metric goes.

    Attributes:
        low, high: the interval of `confidence`.
        error: standard error of `mean`; `freedom` the degrees of freedom it has.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float
    confidence: float
    method: Method

    @property
    def word(self) -> Word:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "tie"


def difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    maximize: bool = True,
    method: Method = "welch",
    confidence: float = CONFIDENCE,
) -> Difference:
    """The gain of `second` over `first`, two values of each at least.

    Raises:
        UserError: with fewer; with pairs, if the samples are not equally long.
    """
    if min(len(first), len(second)) < 2:
        raise UserError("One value says nothing about its noise; compare over two seeds or more.")
    sign = 1.0 if maximize else -1.0
    gain = sign * (fmean(second) - fmean(first))
    if method == "paired":
        if len(first) != len(second):
            raise UserError(f"Pairs need equally many values, but there are {len(first)} and {len(second)}.")
        gaps = [b - a for a, b in zip(first, second, strict=True)]
        error, freedom = stdev(gaps) / math.sqrt(len(gaps)), len(gaps) - 1.0
    else:
        parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
        error = math.sqrt(sum(parts))
        # Welch-Satterthwaite; without any spread the t value multiplies 0.
        weight = sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
        freedom = sum(parts) ** 2 / weight if weight > 0 else len(first) + len(second) - 2.0
    reach = t_value(confidence, freedom) * error
    return Difference(gain, gain - reach, gain + reach, error, freedom, confidence, method)


def t_value(confidence: float, freedom: float) -> float:
    """Student's t that `confidence` of the distribution lies within, on both sides."""
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, freedom))


def pooled_sd(samples: Sequence[Sequence[float]]) -> float | None:
    """The noise of one run, from samples with means of their own; None if none has two values."""
    known = [values for values in samples if len(values) > 1]
    if not known:
        return None
    squares = sum((len(values) - 1) * stdev(values) ** 2 for values in known)
    return math.sqrt(squares / sum(len(values) - 1 for values in known))


def seeds_needed(
    first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE
) -> int | None:
    """With how many seeds each, about, a difference as large as the one seen would leave the noise, spreads being what
    they are (Welch's); None: too many.
    """
    gain, variances = abs(fmean(second) - fmean(first)), [stdev(first) ** 2, stdev(second) ** 2]
    if not gain:
        return None
    both = sum(variances)
    freedom_of_a_seed = both**2 / sum(v**2 for v in variances) if both else 2.0
    for count in range(2, MOST_SEEDS + 1):
        if t_value(confidence, freedom_of_a_seed * (count - 1)) * math.sqrt(both / count) < gain:
            return count
    return None


def more_seeds(needed: int | None, done: int) -> str:
    """What to say of a tie over `done` seeds for which `seeds_needed` has given `needed`."""
    if needed is None:
        return "no reasonable number of seeds would show a difference of this size"
    return f"about {max(needed, done + 1)} seeds each would show a difference of this size"
