"""The questions that a round of trials must answer before its result means anything, in the playbook's order: is the
space wide enough, are there enough good points, how much of it cannot work, is training in trouble, are the runs of
the right length. Each answers PASS, WARN or FAIL with its number and what to do next.

Pure functions of a history and its curves; the figures are in `thresholds.py`. "Best" always means by the first
objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal

from detectune.tuner import thresholds as at
from detectune.tuner.history import Dimension, History, Trial

Level = Literal["PASS", "WARN", "FAIL"]
Curve = Sequence[tuple[float, float]]  # (step, value), steps rising


@dataclass(frozen=True)
class Curves:
    """Trial number -> what it logged: the first objective at each evaluation, and the training loss."""

    metric: Mapping[int, Curve] = field(default_factory=dict)
    loss: Mapping[int, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """One answer. `number` is what was compared with a threshold; `advice` is empty for a PASS."""

    name: str
    level: Level
    number: float
    text: str
    advice: str = ""
    keys: tuple[str, ...] = ()


def judge(history: History, curves: Curves) -> list[Gate]:
    """All gates, in order."""
    return [
        boundary(history),
        enough_points(history),
        infeasible(history),
        trouble(history, curves),
        length(history, curves),
        overfitting(history, curves),
    ]


def best_trials(history: History) -> list[Trial]:
    """The best tenth of the complete trials, four at least, best first."""
    sign = -1.0 if history.objectives[0].direction == "maximize" else 1.0
    complete = sorted((t for t in history.complete if t.values), key=lambda t: sign * _value(t))
    return complete[: max(at.BEST_LEAST, math.ceil(at.BEST_FRACTION * len(complete)))]


def boundary(history: History) -> Gate:
    """Do the best trials crowd at an edge of a knob's range? Then the range they ask for."""
    best = best_trials(history)
    found: list[tuple[float, str, str]] = []
    for dimension in history.space:
        if dimension.choices is not None:
            continue
        places = [position(dimension, t.params[dimension.key]) for t in best if dimension.key in t.params]
        if len(places) < at.BEST_LEAST:
            continue
        for high in (False, True):
            share = sum((1 - p if high else p) <= at.EDGE for p in places) / len(places)
            if share >= at.EDGE_SHARE:
                low_end, high_end = widened(dimension, high=high)
                end = "upper" if high else "lower"
                found.append(
                    (share, dimension.key, f"{dimension.key} at its {end} end: {low_end:g} to {high_end:g}")
                )
    if not found:
        return Gate("boundary", "PASS", 0.0, "The best trials do not crowd at an edge of the space.")
    share = max(share for share, _, _ in found)
    return Gate(
        "boundary",
        "FAIL",
        share,
        f"{share:.0%} of the best {len(best)} trials lie at the edge of a range.",
        "Widen " + "; ".join(text for _, _, text in found) + ".",
        tuple(key for _, key, _ in found),
    )


def enough_points(history: History) -> Gate:
    """How many complete trials come close to the best?"""
    values = [_value(trial) for trial in history.complete if trial.values]
    if len(values) < 2:
        return Gate(
            "enough points", "FAIL", len(values), f"{len(values)} complete trials say nothing.", "Run more."
        )
    best = max(values) if history.objectives[0].direction == "maximize" else min(values)
    reach = at.GOOD_REGION * abs(best - median(values))
    good = sum(abs(best - value) <= reach for value in values)
    level: Level = "PASS" if good >= at.GOOD_ENOUGH else "WARN" if good >= at.GOOD_TOO_FEW else "FAIL"
    advice = "" if level == "PASS" else "Run more trials, or narrow the ranges around the best."
    return Gate(
        "enough points", level, good, f"{good} of {len(values)} trials come close to the best.", advice
    )


def infeasible(history: History) -> Gate:
    """What part of the trials could not work, and from which value of a knob on?"""
    ended = history.ended("complete", "pruned", "infeasible")
    lost = [trial for trial in ended if trial.state == "infeasible"]
    fraction = len(lost) / len(ended) if ended else 0.0
    text = f"{len(lost)} of {len(ended)} trials diverged or ran out of memory ({fraction:.0%})."
    if fraction < at.INFEASIBLE_MANY:
        return Gate("infeasible", "PASS", fraction, text)
    level: Level = "FAIL" if fraction >= at.INFEASIBLE_TOO_MANY else "WARN"
    where = infeasible_from(history)
    if where is None:
        return Gate(
            "infeasible", level, fraction, text, "No single knob tells where; look at the trials' reasons."
        )
    dimension, cut, above = where
    side = "from" if above else "up to"
    bound = "high" if above else "low"
    advice = (
        f"They lie {side} {dimension.key} = {cut:.3g}: set its {bound} to {cut:.3g}, or try a longer warm-up."
    )
    return Gate("infeasible", level, fraction, text, advice, (dimension.key,))


def infeasible_from(history: History) -> tuple[Dimension, float, bool] | None:
    """(knob, value, whether above it) that best tells infeasible trials from the others, if one does."""
    ended = history.ended("complete", "pruned", "infeasible")
    best: tuple[float, Dimension, float, bool] | None = None
    for dimension in history.space:
        if dimension.choices is not None:
            continue
        here = sorted(
            (float(t.params[dimension.key]), t.state == "infeasible")
            for t in ended
            if dimension.key in t.params
        )
        bad = sum(lost for _, lost in here)
        good = len(here) - bad
        if not bad or not good:
            continue
        bad_below = good_below = 0
        for (value, lost), (following, _) in pairwise(here):
            bad_below += lost
            good_below += not lost
            if value == following:
                continue
            accuracy = ((bad - bad_below) / bad + good_below / good) / 2  # of "above diverges"
            for score, above in ((accuracy, True), (1 - accuracy, False)):
                if score >= at.INFEASIBLE_SEPARATION and (best is None or score > best[0]):
                    best = (score, dimension, following if above else value, above)
    return best[1:] if best else None


def trouble(history: History, curves: Curves) -> Gate:
    """Do the best trials' losses rise, or their evaluations swing, late in training?"""
    best = best_trials(history)
    unstable = [t for t in best if len(rises(curves.loss.get(t.number, ()))) >= at.RISES]
    swinging = [t for t in best if oscillation(curves.metric.get(t.number, ())) >= at.OSCILLATION]
    share = max(len(unstable), len(swinging)) / len(best) if best else 0.0
    if share < at.TROUBLE_SHARE:
        return Gate("optimisation", "PASS", share, "The best trials train steadily.")
    if len(unstable) >= len(swinging):
        text = f"The loss of {len(unstable)} of the best {len(best)} trials rises again and again."
        advice = (
            "Lower the learning rate, lengthen its warm-up, or clip the gradient (SOLVER.CLIP_GRADIENTS)."
        )
        return Gate("optimisation", "FAIL", share, text, advice)
    text = f"{len(swinging)} of the best {len(best)} trials swing from evaluation to evaluation late in training."
    advice = "Let the learning rate fall further at the end, or average the weights; a lucky last step wins otherwise."
    return Gate("optimisation", "WARN", share, text, advice)


def length(history: History, curves: Curves) -> Gate:
    """Where in their runs are the best trials at their best: too early, or still rising at the end?"""
    maximize = history.objectives[0].direction == "maximize"
    known = [
        curves.metric[t.number] for t in best_trials(history) if len(curves.metric.get(t.number, ())) >= 4
    ]
    if not known:
        return Gate(
            "length", "PASS", 0.0, "There are no curves to tell whether runs are too long or too short."
        )
    early = sum(best_place(curve, maximize=maximize) <= at.TOO_LONG for curve in known) / len(known)
    rising = sum(still_rising(curve, maximize=maximize) for curve in known) / len(known)
    if early >= at.TROUBLE_SHARE:
        text = (
            f"{early:.0%} of the best trials are at their best in the first {at.TOO_LONG:.0%} of their run."
        )
        return Gate("length", "FAIL", early, text, "Train for fewer iterations, or evaluate more often.")
    if rising >= at.TROUBLE_SHARE:
        text = f"{rising:.0%} of the best trials are at their best in the last {at.TOO_SHORT:.0%}, and still gaining."
        return Gate(
            "length", "WARN", rising, text, "Train the winner for longer before the final comparison."
        )
    return Gate("length", "PASS", max(early, rising), "The best trials have levelled off by their end.")


def overfitting(history: History, curves: Curves) -> Gate:
    """Do the best trials get worse again after their best, beyond the noise of their evaluations?"""
    maximize = history.objectives[0].direction == "maximize"
    known = [
        curves.metric[t.number] for t in best_trials(history) if len(curves.metric.get(t.number, ())) >= 4
    ]
    share = sum(_declines(curve, maximize=maximize) for curve in known) / len(known) if known else 0.0
    if share < at.TROUBLE_SHARE:
        return Gate("overfitting", "PASS", share, "The best trials do not get worse again.")
    text = f"{share:.0%} of the best trials get worse again after their best evaluation."
    return Gate(
        "overfitting", "WARN", share, text, "More weight decay, jitter or dropout; or fewer iterations."
    )


def position(dimension: Dimension, value: float) -> float:
    """Where a value lies in its range, 0 to 1, on the knob's scale."""
    ahead = _transform(dimension)
    assert dimension.low is not None and dimension.high is not None
    low, high = ahead(dimension.low), ahead(dimension.high)
    return (ahead(float(value)) - low) / (high - low)


def widened(dimension: Dimension, *, high: bool) -> tuple[float, float]:
    """The range, longer at one end by WIDEN of itself on its scale. Legal values are the caller's to respect."""
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


def _declines(curve: Curve, *, maximize: bool) -> bool:
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


def _transform(dimension: Dimension) -> Callable[[float], float]:
    if dimension.scale == "log":
        return math.log
    if dimension.scale == "one_minus_log":
        return lambda value: -math.log(1 - value)
    return lambda value: value


def _value(trial: Trial) -> float:
    assert trial.values is not None
    return trial.values[0]
