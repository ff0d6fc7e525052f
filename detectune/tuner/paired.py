"""Is one setting better than another on the same images, and how sure is that: the bootstrap over images, paired.

AP is no mean over images, so its spread has no formula; drawing images with replacement and computing both APs on each
draw gives the spread of their difference (Efron and Tibshirani 1993, chapter 6). The interval is widened by
sqrt(n / (n - 1)), as images are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000  # ours
COVERAGE = 0.95

Measure = Callable[[np.ndarray], float]
"""Weights float64 [I] of images to a metric."""


@dataclass(frozen=True)
class Difference:
    """`after` minus `before` on `images` images; NaN where a draw has no objects."""

    before: float
    after: float
    low: float
    high: float
    deviation: float
    images: int

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def beyond_noise(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


def compare(
    before: Measure,
    after: Measure,
    images: Sequence[int],
    *,
    num_images: int,
    seed: int,
    draws: int = DRAWS,
) -> Difference:
    """The difference of two measures on the images of these numbers, with its interval.

    `num_images` is the length of the weights that the measures take.
    """
    own = np.asarray(images, dtype=np.int64)
    plain = np.zeros(num_images)
    plain[own] = 1
    was, is_ = before(plain), after(plain)
    generator = np.random.default_rng([seed, len(own)])
    found = []
    for _ in range(draws):
        weights = np.zeros(num_images)
        np.add.at(weights, generator.choice(own, len(own)), 1)
        found.append(after(weights) - before(weights))
    spread = np.asarray(found)[~np.isnan(found)]
    if not len(spread):
        return Difference(was, is_, float("nan"), float("nan"), float("nan"), len(own))
    wider = (len(own) / max(1, len(own) - 1)) ** 0.5
    edges = np.quantile(spread, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    low, high = (is_ - was) + wider * (edges - (is_ - was))
    return Difference(was, is_, float(low), float(high), float(spread.std() * wider), len(own))
