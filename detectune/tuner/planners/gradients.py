"""What the norms of gradients advise: where to clip, whether the rate is too high, how long to warm up. Pure.

Clip at the 90th percentile of the norms; if more than half of the updates are clipped, the rate is too high and not
the threshold too low (Deep Learning Tuning Playbook, on fixing instabilities). The length of the warm-up is ours: the
norms of a young network are often many times those that follow, and the rate should not be at its full height before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from detectune.errors import UserError
from detectune.tuner import thresholds as at

Norms = Sequence[tuple[float, float]]  # (iteration, norm), iterations rising


@dataclass(frozen=True)
class GradientAdvice:
    """What was found. `settings` are keys with the values that are advised; empty if all is well.

    Attributes:
        percentile: the 90th of all norms.
        clipped: part of the updates that SOLVER.CLIP_GRADIENT_NORM shortened; None if it is off.
        settled: iteration from which on norms are like those of the run's second half; 0: from the first.
    """

    percentile: float
    clipped: float | None
    settled: int
    settings: Mapping[str, Any]
    text: str


def norms_of(rows: Sequence[Mapping[str, Any]]) -> Norms:
    """(iteration, norm) from rows of metrics.jsonl; a row's norms are spread over the steps since the row before."""
    found: list[tuple[float, float]] = []
    before = 0.0
    for row in rows:
        if row.get("kind") != "train":
            continue
        norms, end = row.get("gradient_norms") or (), float(row["iteration"])
        known = [(i, norm) for i, norm in enumerate(norms, start=1) if norm is not None]
        found += [(before + (end - before) * i / len(norms), float(norm)) for i, norm in known]
        before = end
    return found


def advise_gradients(norms: Norms, *, clip: float, warm_up: int, rate: float) -> GradientAdvice:
    """From the norms before clipping, and the SOLVER keys CLIP_GRADIENT_NORM, WARM_UP_ITERS and BASE_LR.

    Raises:
        UserError: for fewer than NORMS_LEAST norms.
    """
    if len(norms) < at.NORMS_LEAST:
        raise UserError(f"{len(norms)} gradient norms say too little; {at.NORMS_LEAST} are needed.")
    ordered = sorted(norm for _, norm in norms)
    percentile = ordered[math.ceil(at.CLIP_PERCENTILE * len(ordered)) - 1]
    settings: dict[str, Any] = {}
    lines = [
        f"Norms of {len(norms)} updates: median {median(ordered):.3g}, {at.CLIP_PERCENTILE:.0%} below "
        f"{percentile:.3g}, largest {ordered[-1]:.3g}."
    ]
    clipped = sum(norm > clip for norm in ordered) / len(ordered) if clip > 0 else None
    if clipped is not None and clipped > at.CLIPPED_TOO_MANY:
        settings["SOLVER.BASE_LR"] = rate / 2
        lines.append(
            f"{clipped:.0%} of the updates were clipped at {clip:g}: that is a lower rate in disguise. Lower "
            f"SOLVER.BASE_LR, to {rate / 2:.3g} for a start, or clip at {percentile:.3g}."
        )
    elif clipped is not None:
        lines.append(
            f"{clipped:.0%} of the updates were clipped at {clip:g}, as it should be for single bad batches."
        )
    else:
        settings["SOLVER.CLIP_GRADIENT_NORM"] = float(f"{percentile:.3g}")
        lines.append(f"Where training is unstable, clip at {percentile:.3g}.")
    settled = settled_from(norms)
    if settled > warm_up:
        settings["SOLVER.WARM_UP_ITERS"] = settled
        lines.append(
            f"Norms are like those of the second half from iteration {settled} on, the warm-up ends at {warm_up}: make "
            "it that long."
        )
    else:
        lines.append(f"The warm-up of {warm_up} iterations is long enough for them to settle.")
    return GradientAdvice(percentile, clipped, settled, settings, " ".join(lines))


def settled_from(norms: Norms) -> int:
    """The iteration at which medians over a window first come within SETTLED of the second half's; 0 at once.

    Norms that are still settling in the second half do so because the rate falls, or never: 0.
    """
    values = [norm for _, norm in norms]
    usual = median(values[len(values) // 2 :])
    width = max(5, math.ceil(at.NORM_WINDOW * len(values)))
    windows = range(len(values) // 2 - width)
    first = next((i for i in windows if median(values[i : i + width]) <= at.SETTLED * usual), 0)
    # A window's median is high as long as half of the window is.
    return math.ceil(norms[first + width // 2][0]) if first else 0
