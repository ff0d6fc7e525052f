"""The highest learning rate that still learns, and one to start from: a search over rates, each from the same weights.

A sweep that raises the rate while it trains (Smith 2017, arXiv:1506.01186) blames a rate for what the ones before it
did: a loss that they brought low needs long to show that it grows again. Here every rate starts anew, so the answer
on a quadratic is the textbook's: gradient descent diverges above 2 / curvature.

Knows nothing about networks: a probe is any function from a rate to (loss before, loss after a few steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from detectune.tuner import thresholds as at

Probe = Callable[[float], tuple[float, float | None]]


@dataclass(frozen=True)
class Probed:
    """One rate: the loss before and after; None if it was no finite number on the way."""

    rate: float
    before: float
    after: float | None

    @property
    def learns(self) -> bool:
        return self.after is not None and self.after < self.before


@dataclass(frozen=True)
class RateAdvice:
    """What was found.

    Attributes:
        best: the rate with the lowest loss after the few steps.
        critical: the lowest rate seen that does not lower the loss; None if all above `best` do.
        start: a rate to start from.
    """

    probed: tuple[Probed, ...]  # by rate
    best: float | None
    critical: float | None
    start: float | None
    text: str


def find_rate(
    probe: Probe, *, low: float, high: float, told: Callable[[Probed], None] = lambda _: None
) -> RateAdvice:
    """Try rates from `low` to `high`, then halve the gap above the best one until it is known."""
    probed: dict[float, Probed] = {}

    def look(rate: float) -> Probed:
        before, after = probe(rate)
        probed[rate] = Probed(rate, before, after if after is not None and math.isfinite(after) else None)
        told(probed[rate])
        return probed[rate]

    count = max(2, math.ceil(at.RATES_PER_DECADE * math.log10(high / low)) + 1)
    failed_in_a_row = 0
    for i in range(count):
        found = look(low * (high / low) ** (i / (count - 1)))
        failed_in_a_row = 0 if found.learns else failed_in_a_row + 1
        if failed_in_a_row == 3 and any(p.learns for p in probed.values()):
            break  # higher ones fail too
    learning = [p for p in probed.values() if p.learns]
    if not learning:
        return RateAdvice(
            _sorted(probed), None, None, None, "No rate lowered the loss; take lower ones (--low)."
        )
    best = min(learning, key=lambda p: p.after if p.after is not None else math.inf)
    failing = min((p.rate for p in probed.values() if p.rate > best.rate and not p.learns), default=None)
    if failing is not None:
        good = max(p.rate for p in learning if p.rate < failing)
        while failing / good > at.RATE_PRECISION:
            middle = math.sqrt(good * failing)
            if look(middle).learns:
                good = middle
            else:
                failing = middle
    return _advise(_sorted(probed), failing)


def _advise(probed: tuple[Probed, ...], critical: float | None) -> RateAdvice:
    learning = [
        p for p in probed if p.learns and p.after is not None and (critical is None or p.rate < critical)
    ]
    losses = [p.after for p in learning if p.after is not None]
    lowest = min(losses)
    best = learning[losses.index(lowest)]
    reach = lowest + at.RATE_MARGIN * (best.before - lowest)
    safe = math.inf if critical is None else at.RATE_SAFETY * critical
    as_good = [p.rate for p in learning if p.after is not None and p.after <= reach]
    start = min(max(as_good), safe)
    if critical is None:
        text = f"Every rate up to {probed[-1].rate:.3g} learns; raise --high to see where it ends."
    else:
        text = f"From {critical:.3g} on the loss no longer falls."
    text += f" It fell furthest at {best.rate:.3g}. Start from {start:.3g}"
    text += f" and search {start / 10:.2g} to {min(start * 10, critical or math.inf):.2g}."
    return RateAdvice(probed, best.rate, critical, start, text)


def _sorted(probed: dict[float, Probed]) -> tuple[Probed, ...]:
    return tuple(probed[rate] for rate in sorted(probed))
