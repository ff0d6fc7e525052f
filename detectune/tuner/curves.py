"""What single learning curves say: whether they rise again, swing, are still gaining, have saturated or declined.

Pure functions of (step, value) points with steps rising; `read_curves` gets them from the run directories of a study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from detectune.engine.run_directory import RunDirectory
from detectune.tuner import thresholds as at
from detectune.tuner.history import History

Curve = Sequence[tuple[float, float]]  # (step, value), steps rising


@dataclass(frozen=True)
class Curves:
    """Trial number -> what it logged: the first objective at each evaluation, and the training loss."""

    metric: Mapping[int, Curve] = field(default_factory=dict)
    loss: Mapping[int, Curve] = field(default_factory=dict)


def read_curves(folder: Path, history: History) -> Curves:
    """The curves of a study's trials, from the run directories below `folder`."""
    metric: dict[int, Curve] = {}
    loss: dict[int, Curve] = {}
    for trial in history.trials:
        if trial.run:
            rows = RunDirectory(folder / trial.run).read_metrics()
            metric[trial.number] = metric_curve(rows, history.objectives[0].metric)
            loss[trial.number] = _points([r for r in rows if r.get("kind") == "train"], "loss")
    return Curves(metric, loss)


def metric_curve(rows: Sequence[Mapping[str, Any]], metric: str) -> Curve:
    """(iteration, value) of a metric on the first data set, from rows of metrics.jsonl."""
    tests = [row for row in rows if row.get("kind") == "evaluation"]
    first = tests[0].get("dataset") if tests else None
    return _points([row for row in tests if row.get("dataset") == first], metric)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return [
        (float(row["iteration"]), float(v)) for row in rows if isinstance(v := row.get(name), int | float)
    ]


def rises(loss: Curve) -> list[float]:
    """Steps at which the loss newly stood LOSS_RISE times above its lowest so far."""
    lowest, risen, found = math.inf, False, []
    for step, value in loss:
        lowest = min(lowest, value)
        high = value > at.LOSS_RISE * lowest
        if high and not risen:
            found.append(step)
        risen = high
    return found


def noise(curve: Curve) -> float:
    """Standard deviation of a curve around its own course, from its second differences, sqrt(6) times as large."""
    values = [value for _, value in curve]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0


def oscillation(curve: Curve) -> float:
    """Noise of the late part of a curve as part of the curve's whole reach."""
    values = [value for _, value in curve]
    late = curve[int(at.LATE * len(curve)) :]
    if len(late) < 5 or max(values) == min(values):
        return 0.0
    return noise(late) / (max(values) - min(values))


def best_place(curve: Curve, *, maximize: bool) -> float:
    """Where the best evaluation lies, as part of the run."""
    best = (max if maximize else min)(curve, key=lambda point: point[1])
    return best[0] / curve[-1][0]


def still_rising(curve: Curve, *, maximize: bool) -> bool:
    """Whether the best lies in the last TOO_SHORT of the run and that part added more than noise does."""
    if best_place(curve, maximize=maximize) <= 1 - at.TOO_SHORT:
        return False
    sign = 1 if maximize else -1
    values = [sign * value for _, value in curve]
    end = curve[-1][0]
    part = max(1, sum(step > (1 - at.TOO_SHORT) * end for step, _ in curve) // 2)
    # Means of two stretches, so that one lucky evaluation is no gain: the last, and the one before the last quarter.
    last = sum(values[-part:]) / part
    before = values[: -2 * part][-part:]
    if not before:
        return False
    gain = last - sum(before) / len(before)
    error = noise(curve) * math.sqrt(1 / part + 1 / len(before))
    return gain > max(at.NOISE_FACTOR * error, at.STILL_RISING * (max(values) - min(values)))


def declines(curve: Curve, *, maximize: bool) -> bool:
    """Whether the last stretch lies below the best stretch by more than their noise explains."""
    sign = 1 if maximize else -1
    values = [sign * value for _, value in curve]
    part = max(1, len(values) // 5)
    means = [sum(values[i : i + part]) / part for i in range(len(values) - part + 1)]
    error = noise(curve) * math.sqrt(2 / part)
    # The best of many stretches is lucky: twice the factor that a single comparison needs.
    return max(means) - means[-1] > max(
        2 * at.NOISE_FACTOR * error, at.STILL_RISING * (max(values) - min(values))
    )


def saturated_at(curve: Curve, *, maximize: bool) -> float:
    """The part of the run after which nothing was gained beyond noise, 0 to 1; 1 if it gained until its end."""
    sign = 1 if maximize else -1
    values = [sign * value for _, value in curve]
    part = max(1, len(values) // 5)
    means = [sum(values[i : i + part]) / part for i in range(len(values) - part + 1)]
    # The last of many stretches that fell below the end was unlucky: twice the factor, as in `declines`.
    error = 2 * at.NOISE_FACTOR * noise(curve) * math.sqrt(2 / part)
    reach = max(error, at.STILL_RISING * (max(values) - min(values)))
    below = [i for i, mean in enumerate(means) if mean < means[-1] - reach]
    # The stretch after the last one that was lower; what counts is where it ends.
    first = below[-1] + 1 if below else 0
    return curve[first + part - 1][0] / curve[-1][0]
