"""The questions that a round of trials must answer before its result means anything, in the playbook's order: is the
space wide enough, are there enough good points, how much of it cannot work, is training in trouble, are the runs of
the right length. Each answers PASS, WARN or FAIL with its number and what to do next.

Pure functions of a history and its curves; the figures are in `thresholds.py`. "Best" always means by the first
objective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from detectune.tuner import thresholds as at
from detectune.tuner.curves import (
    Curves,
    best_place,
    declines,
    oscillation,
    rises,
    saturated_at,
    still_rising,
)
from detectune.tuner.history import Dimension, History, Trial
from detectune.tuner.regions import position, widened

Level = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True)
class Gate:
    """One answer.

    Attributes:
        number: what was compared with a threshold.
        advice: what to do, empty for a PASS.
        keys: the knobs that it is about.
        data: what its picture and its command need besides the trials.
    """

    name: str
    level: Level
    number: float
    text: str
    advice: str = ""
    keys: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def judge(history: History, curves: Curves, confirmed: Mapping[str, Any] | None = None) -> list[Gate]:
    """All gates, in order. `confirmed` is what `confirm.json` holds, if the best were run again."""
    above = (confirmed or {}).get("above")
    return [
        boundary(history),
        enough_points(history),
        infeasible(history),
        trouble(history, curves),
        *([instability(above)] if above else []),
        length(history, curves),
        overfitting(history, curves),
        saturation(history, curves),
        question(history, confirmed),
    ]


def ranked(history: History) -> list[Trial]:
    """The complete trials, best first; of equals the earlier."""
    sign = -1.0 if history.objectives[0].direction == "maximize" else 1.0
    return sorted((t for t in history.complete if t.values), key=lambda t: sign * _value(t))


def best_trials(history: History) -> list[Trial]:
    """The best tenth of the complete trials, four at least, best first."""
    complete = ranked(history)
    return complete[: max(at.BEST_LEAST, math.ceil(at.BEST_FRACTION * len(complete)))]


def boundary(history: History) -> Gate:
    """Do the best trials crowd at an edge of a knob's range? Then the range they ask for."""
    best = best_trials(history)
    found: list[tuple[float, dict[str, Any]]] = []
    for dimension in history.space:
        if dimension.choices is not None:
            continue
        places = [position(dimension, t.params[dimension.key]) for t in best if dimension.key in t.params]
        if len(places) < at.BEST_LEAST:
            continue
        for high in (False, True):
            share = sum((1 - p if high else p) <= at.EDGE for p in places) / len(places)
            low, high_end = widened(dimension, high=high)
            if share >= at.EDGE_SHARE and (low, high_end) != (dimension.low, dimension.high):
                end = "upper" if high else "lower"
                found.append((share, {"key": dimension.key, "end": end, "low": low, "high": high_end}))
    drawn = {"edge": at.EDGE}
    if not found:
        return Gate(
            "boundary", "PASS", 0.0, "The best trials do not crowd at an edge of the space.", data=drawn
        )
    share = max(share for share, _ in found)
    edges = [edge for _, edge in found]
    said = [f"{e['key']} at its {e['end']} end: {e['low']:g} to {e['high']:g}" for e in edges]
    return Gate(
        "boundary",
        "FAIL",
        share,
        f"{share:.0%} of the best {len(best)} trials lie at the edge of a range.",
        "Widen " + "; ".join(said) + ".",
        tuple(edge["key"] for edge in edges),
        drawn | {"edges": edges},
    )


def enough_points(history: History) -> Gate:
    """How many complete trials come close to the best?"""
    values = [_value(trial) for trial in history.complete if trial.values]
    if len(values) < 2:
        text = "One complete trial says nothing." if values else "No trial is complete."
        return Gate("enough points", "FAIL", len(values), text, "Run more.")
    best = max(values) if history.objectives[0].direction == "maximize" else min(values)
    reach = at.GOOD_REGION * abs(best - median(values))
    good = sum(abs(best - value) <= reach for value in values)
    level: Level = "PASS" if good >= at.GOOD_ENOUGH else "WARN" if good >= at.GOOD_TOO_FEW else "FAIL"
    advice = "" if level == "PASS" else "Run more trials, or narrow the ranges around the best."
    text = f"{good} of {len(values)} trials come close to the best."
    return Gate("enough points", level, good, text, advice, data={"best": best, "reach": reach})


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
    data = {"key": dimension.key, "cut": cut, "above": above}
    return Gate("infeasible", level, fraction, text, advice, (dimension.key,), data)


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
    drawn = {"bands": [[0.0, at.TOO_LONG], [1 - at.TOO_SHORT, 1.0]]}
    early = sum(best_place(curve, maximize=maximize) <= at.TOO_LONG for curve in known) / len(known)
    rising = sum(still_rising(curve, maximize=maximize) for curve in known) / len(known)
    if early >= at.TROUBLE_SHARE:
        text = (
            f"{early:.0%} of the best trials are at their best in the first {at.TOO_LONG:.0%} of their run."
        )
        return Gate(
            "length", "FAIL", early, text, "Train for fewer iterations, or evaluate more often.", data=drawn
        )
    if rising >= at.TROUBLE_SHARE:
        text = f"{rising:.0%} of the best trials are at their best in the last {at.TOO_SHORT:.0%}, and still gaining."
        advice = "Train the winner for longer before the final comparison."
        return Gate("length", "WARN", rising, text, advice, data=drawn)
    text = "The best trials have levelled off by their end."
    return Gate("length", "PASS", max(early, rising), text, data=drawn)


def overfitting(history: History, curves: Curves) -> Gate:
    """Do the best trials get worse again after their best, beyond the noise of their evaluations?"""
    maximize = history.objectives[0].direction == "maximize"
    known = [
        curves.metric[t.number] for t in best_trials(history) if len(curves.metric.get(t.number, ())) >= 4
    ]
    share = sum(declines(curve, maximize=maximize) for curve in known) / len(known) if known else 0.0
    if share < at.TROUBLE_SHARE:
        return Gate("overfitting", "PASS", share, "The best trials do not get worse again.")
    text = f"{share:.0%} of the best trials get worse again after their best evaluation."
    return Gate(
        "overfitting", "WARN", share, text, "More weight decay, jitter or dropout; or fewer iterations."
    )


def saturation(history: History, curves: Curves) -> Gate:
    """Do the best trials gain nothing in most of their run? Then trials may be shorter, and more of them."""
    maximize = history.objectives[0].direction == "maximize"
    known = [
        curves.metric[t.number] for t in best_trials(history) if len(curves.metric.get(t.number, ())) >= 8
    ]
    if not known:
        return Gate(
            "saturation", "PASS", 1.0, "There are too few evaluations to tell where curves level off."
        )
    place = median(saturated_at(curve, maximize=maximize) for curve in known)
    text = f"The best trials gain nothing after {place:.0%} of their run."
    if place > at.SATURATED:
        return Gate("saturation", "PASS", place, text)
    return Gate("saturation", "WARN", place, text, "Shorter trials would tell as much: run more of them.")


def instability(above: Sequence[Mapping[str, Any]]) -> Gate:
    """Does training at multiples of the best learning rate break down? `above` is what `confirm.json` says of them.

    Where it does at the first of them, the best rate is the highest that works: what makes training steadier then
    allows a higher one, and often a better result.
    """
    unstable = [run for run in above if run["unstable"]]
    shown = ", ".join(f"{r['factor']:g}x {'unstable' if r['unstable'] else 'steady'}" for r in above)
    text = f"Rates above the best: {shown}."
    data = {"above": list(above)}
    better = [run for run in above if run.get("better")]
    if better:
        text = (
            f"{text} At {better[0]['factor']:g} times the best rate the result is better by more than noise."
        )
        advice = "The best rate lies higher: widen the range of SOLVER.BASE_LR."
        return Gate("instability", "WARN", better[0]["factor"], text, advice, ("SOLVER.BASE_LR",), data)
    if not unstable:
        return Gate("instability", "PASS", math.inf, text, data=data)
    first = min(float(run["factor"]) for run in unstable)
    if first > min(at.RATE_FACTORS):
        return Gate("instability", "PASS", first, text, data=data)
    advice = "Lengthen the warm-up or clip the gradient, then search higher rates."
    return Gate("instability", "WARN", first, text, advice, ("SOLVER.BASE_LR",), data)


def question(history: History, confirmed: Mapping[str, Any] | None) -> Gate:
    """The study's own question, with the noise: is there something better than the base?"""
    best = ranked(history)
    if confirmed is None:
        if not best:
            return Gate("question", "FAIL", 0.0, "No trial is complete.", "See why they ended as they did.")
        text = (
            f"Trial {best[0].number} is the best of {len(best)}, and so perhaps the luckiest: its noise was not "
            "measured."
        )
        return Gate("question", "WARN", 0.0, text, "Run the best again with new seeds.")
    if confirmed.get("unfinished"):
        again = {"again": confirmed["unfinished"]["command"]}
        return Gate("question", "WARN", 0.0, confirmed["conclusion"], "Let it go on:", data=again)
    if confirmed.get("newer"):
        newer = confirmed["newer"]
        text = (
            f"Trial {newer['trial']} is the best now. It came after the best were run again ({newer['before']}), and "
            f"so its noise was not measured. What was said then: {confirmed['conclusion']}"
        )
        advice = "Run the best again with new seeds, of which those that have ended are kept:"
        return Gate("question", "WARN", 0.0, text, advice, data={"again": newer["command"]})
    gain = confirmed.get("gain")
    number = gain["mean"] if gain else 0.0
    data = {"confirmed": True}
    if confirmed["change"]:
        return Gate("question", "PASS", number, confirmed["conclusion"], data=data)
    return Gate(
        "question", "WARN", number, confirmed["conclusion"], "Keep the base configuration.", data=data
    )


def _value(trial: Trial) -> float:
    assert trial.values is not None
    return trial.values[0]
