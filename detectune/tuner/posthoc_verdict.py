"""What a study of inference knobs says in the end: adopt the setting or keep what you have; both halves' figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectune.config.load import ConfigError
from detectune.config.tree import Config
from detectune.evaluation.average_precision import match
from detectune.tuner.history import Dimension, Space
from detectune.tuner.many_settings import setting_at
from detectune.tuner.operating_point import Goal, operating_points
from detectune.tuner.paired import DRAWS, Difference, compare
from detectune.tuner.replay import MEASURES, RECALLS, Replay, measure_matched

FORMAT = 1
SWEEP = 9  # values of a knob in its picture
MOST_SWEPT = 6
MOST_WORK = 5e7  # what draws together may cost; beyond it fewer are made, but not fewer than LEAST_DRAWS
WORK_OF_A_CLASS = 200  # a class costs as much as so many detections
LEAST_DRAWS = 200


@dataclass(frozen=True)
class Halves:
    """Numbers of the images that choose and of those that report."""

    tune: list[int]
    report: list[int]

    @staticmethod
    def of(count: int, *, seed: int) -> Halves:
        """A random split."""
        order = np.random.default_rng([seed, count]).permutation(count).tolist()
        return Halves(sorted(order[: count // 2]), sorted(order[count // 2 :]))


def judge(
    metric: str,
    space: Space,
    base: Config,
    changes: Mapping[str, Any],
    replay: Replay,
    halves: Halves,
    *,
    seed: int,
    goal: Goal | None = None,
) -> dict[str, Any]:
    """The verdict on `changes` to the base, which the tuning half has chosen."""
    after = base.with_overrides(changes)
    tune, report = (
        _difference(metric, base, after, replay, half, seed) for half in (halves.tune, halves.report)
    )
    flat = base.flat()
    adopted = bool(changes) and report.beyond_noise
    verdict: dict[str, Any] = {
        "format": FORMAT,
        "stage": "inference",
        "metric": metric,
        "decision": "adopt" if adopted else "keep",
        "sentence": sentence(metric, changes, tune, report),
        "changes": {key: [flat[key], value] for key, value in changes.items()},
        "halves": {"tune": asdict(tune), "report": asdict(report)},
        "measures": _measures(metric, base, after, replay, halves),
        "sweeps": _sweeps(metric, space, after, list(changes), replay, halves),
    }
    if goal is not None:
        verdict["operating_point"] = _point(metric, after if adopted else base, replay, halves, goal)
    return verdict


def thresholds(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The least score of each class at the operating point of a verdict, as TEST.SCORE_THRESH_PER_CLASS takes them.

    Classes of which the tuning half has no object are left out.
    """
    rows = (verdict.get("operating_point") or {"classes": []})["classes"]
    return {row["class"]: row["threshold"] for row in rows if row["threshold"] is not None}


def _point(metric: str, config: Config, replay: Replay, halves: Halves, goal: Goal) -> dict[str, Any]:
    """Thresholds on scores of boxes, which are what `infer` and `test` compare with them."""
    task = metric.partition("/")[0]
    truth = replay.truths[task]
    found = replay.found(config, task, by_box=True)
    rows = operating_points(
        match(found, truth.objects, limit=truth.limit), replay.class_info.names, goal,
        tuning=replay.weights(halves.tune), reporting=replay.weights(halves.report),
    )  # fmt: skip
    return {"goal": goal.text, "kind": goal.kind, "task": task, "classes": rows}


def sentence(metric: str, changes: Mapping[str, Any], tune: Difference, report: Difference) -> str:
    """What to do, and why, in plain words."""
    if not changes:
        return f"Keep what you have: no setting gains on the tuning half beyond a rounding of {metric}."
    figures = (
        f"on the {report.images} reporting images {metric} goes from {report.before:.4f} to {report.after:.4f} "
        f"({report.gain:+.4f}, 95 % interval {report.low:+.4f} to {report.high:+.4f}); on the {tune.images} images "
        f"that chose it, from {tune.before:.4f} to {tune.after:.4f}"
    )
    if report.beyond_noise:
        return f"Adopt the setting: {figures}."
    return f"Keep what you have: the gain is not confirmed, {figures}."


def _difference(
    metric: str, base: Config, after: Config, replay: Replay, half: list[int], seed: int
) -> Difference:
    task, _, name = metric.partition("/")
    area = MEASURES[name][1] if name in MEASURES else "all"
    was, is_ = (replay.matched(config, task, half, area=area) for config in (base, after))
    found = (len(was.label) + len(is_.label)) / 2
    work = len(was.right) * (found + WORK_OF_A_CLASS * len(replay.class_info))
    return compare(
        lambda weights: measure_matched(was, name, weights),
        lambda weights: measure_matched(is_, name, weights),
        half,
        num_images=len(replay),
        seed=seed,
        draws=int(min(DRAWS, max(LEAST_DRAWS, MOST_WORK / work))),
    )


def _measures(
    metric: str, base: Config, after: Config, replay: Replay, halves: Halves
) -> list[dict[str, Any]]:
    """Other metrics of the task, before and after, on both halves."""
    task = metric.partition("/")[0]
    truth = replay.truths[task]
    found = [replay.found(config, task) for config in (base, after)]
    rows = []
    for name in [*MEASURES, RECALLS[1] if task == "keypoints" else RECALLS[0]]:
        area = MEASURES[name][1] if name in MEASURES else "all"
        matched = [match(one, truth.objects, area=area, limit=truth.limit) for one in found]
        row: dict[str, Any] = {"metric": f"{task}/{name}"}
        for half, images in (("tune", halves.tune), ("report", halves.report)):
            weights = replay.weights(images)
            row[half] = [measure_matched(one, name, weights) for one in matched]
        rows.append(row)
    return rows


def _sweeps(
    metric: str, space: Space, config: Config, first: list[str], replay: Replay, halves: Halves
) -> list[dict[str, Any]]:
    """Each knob alone, the others as recommended: values and the metric on both halves."""
    flat = config.flat()
    task, _, name = metric.partition("/")
    area = MEASURES[name][1] if name in MEASURES else "all"
    dimensions = sorted(
        (d for d in space if d.exists(flat)),
        key=lambda d: first.index(d.key) if d.key in first else len(first),
    )
    sweeps = []
    for dimension in dimensions[:MOST_SWEPT]:
        values, tune, report = [], [], []
        for value in _values(dimension, flat[dimension.key]):
            try:
                changed = config.with_overrides({dimension.key: value})
            except ConfigError:
                continue
            matched = replay.matched(changed, task, area=area)
            values.append(value)
            tune.append(measure_matched(matched, name, replay.weights(halves.tune)))
            report.append(measure_matched(matched, name, replay.weights(halves.report)))
        sweeps.append(
            {"key": dimension.key, "values": values, "tune": tune, "report": report, "chosen": flat[dimension.key],
             "scale": dimension.scale if dimension.choices is None else "choice"}
        )  # fmt: skip
    return sweeps


def _values(dimension: Dimension, chosen: Any) -> list[Any]:
    if dimension.choices is not None:
        return list(dimension.choices)
    alone = Space((Dimension(**{**dimension.__dict__, "condition": None}),))
    places = [i / (SWEEP - 1) for i in range(SWEEP)]
    values = {setting_at(alone, {}, np.array([min(place, 1 - 1e-9)]))[dimension.key] for place in places}
    return sorted({*values, chosen})
