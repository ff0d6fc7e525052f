"""How many iterations, from the curve of a run that was measured on the way. Pure.

A run whose best evaluation lies in its first tenth is far too long, one that is best in its last quarter and still
gains perhaps too short (both from the Deep Learning Tuning Playbook); how much longer, a saturating curve fitted to
what was seen says: value = end - gap * exp(-iteration / scale).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detectune.errors import UserError
from detectune.tuner import thresholds as at
from detectune.tuner.curves import Curve, best_place, still_rising

Word = Literal["too long", "too short", "right"]


@dataclass(frozen=True)
class StepsAdvice:
    """The word, how many iterations to take, and why."""

    word: Word
    steps: int
    text: str


def advise_steps(curve: Curve, *, maximize: bool) -> StepsAdvice:
    """From (iteration, value), iterations rising.

    Raises:
        UserError: for fewer than CURVE_LEAST evaluations.
    """
    if len(curve) < at.CURVE_LEAST:
        raise UserError(
            f"{len(curve)} evaluations do not show a curve; set TRAIN.EVAL_ITERS so that a run has {at.CURVE_LEAST} or "
            "more."
        )
    place, length = best_place(curve, maximize=maximize), curve[-1][0]
    if place <= at.TOO_LONG:
        best = place * length
        steps = _rounded(at.SPARE * best)
        return StepsAdvice(
            "too long", steps, f"The best evaluation was at {best:.0f} of {length:.0f}: {steps} are enough."
        )
    scale = fit_scale(curve, maximize=maximize)
    if still_rising(curve, maximize=maximize):
        wanted = math.inf if scale is None else scale * math.log(1 / (1 - at.REACHED))
        steps = _rounded(min(max(wanted, at.SPARE * length), at.MOST_LONGER * length))
        return StepsAdvice(
            "too short", steps,
            f"It still gained in the last {at.TOO_SHORT:.0%} of {length:.0f}: try {steps}"
            f"{', as far as the curve can be continued' if wanted > at.MOST_LONGER * length else ''}.",
        )  # fmt: skip
    enough = length if scale is None else min(length, scale * math.log(1 / (1 - at.REACHED)))
    steps = _rounded(enough)
    return StepsAdvice(
        "right",
        steps,
        f"It has levelled off: {at.REACHED:.0%} of the gain was there by {steps} of {length:.0f}.",
    )


def fit_scale(curve: Curve, *, maximize: bool) -> float | None:
    """`scale` of the saturating curve nearest in squares; None if the values do not rise towards an end."""
    sign = 1.0 if maximize else -1.0
    x = np.array([step for step, _ in curve])
    y = np.array([sign * value for _, value in curve])
    best: tuple[float, float] | None = None
    for scale in np.geomspace(x[-1] / 50, x[-1] * 10, 120):
        terms = np.stack([np.ones_like(x), -np.exp(-x / scale)], axis=1)
        (_, gap), *_ = np.linalg.lstsq(terms, y, rcond=None)
        error = float(((terms @ np.linalg.lstsq(terms, y, rcond=None)[0] - y) ** 2).sum())
        if gap > 0 and (best is None or error < best[0]):
            best = (error, float(scale))
    return None if best is None else best[1]


def _rounded(steps: float) -> int:
    """Two significant digits, upwards."""
    unit = 10 ** max(0, math.floor(math.log10(max(1.0, steps))) - 1)
    return int(math.ceil(steps / unit - 1e-9) * unit)
