"""Per-class score thresholds for the point at which a detector will work: F-beta, precision at recall, or cost.

AP looks at all thresholds; whoever uses a detector chooses one. Right is what takes an object of its class at an
overlap of 0.5. Thresholds are chosen on some images and measured on others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectune.errors import UserError
from detectune.evaluation.average_precision import Matched

FORMS = "f1 (or f0.5, f2: recall weighs more), precision@recall=0.9, recall@precision=0.9, cost=1,5 (wrong, missed)"


@dataclass(frozen=True)
class Goal:
    """What is wanted: `kind` is f, recall, precision (the one that is bounded from below) or cost."""

    text: str
    kind: str
    beta: float = 1.0
    least: float = 0.0
    wrong: float = 1.0
    missed: float = 1.0


def read_goal(text: str) -> Goal:
    """The goal that a word of the command line means."""
    number = r"(\d+(?:\.\d+)?)"
    if found := re.fullmatch(rf"f{number}", text):
        if float(found[1]) > 0:
            return Goal(text, "f", beta=float(found[1]))
    elif found := re.fullmatch(rf"(precision@recall|recall@precision)={number}", text):
        if 0 < float(found[2]) <= 1:
            return Goal(text, found[1].partition("@")[2], least=float(found[2]))
    elif found := re.fullmatch(rf"cost={number},{number}", text):
        return Goal(text, "cost", wrong=float(found[1]), missed=float(found[2]))
    raise UserError(f"--operating-point {text} is none of {FORMS}.")


@dataclass(frozen=True)
class Counts:
    """One class above a threshold."""

    right: float
    wrong: float
    objects: float

    @property
    def precision(self) -> float:
        """1 where nothing was found: nothing is wrong."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.objects if self.objects else float("nan")

    def f(self, beta: float = 1.0) -> float:
        total = (1 + beta**2) * self.right + beta**2 * (self.objects - self.right) + self.wrong
        return (1 + beta**2) * self.right / total if total else float("nan")


def choose_threshold(matched: Matched, label: int, goal: Goal, weights: np.ndarray) -> float | None:
    """The score at and above which detections of a class count; None where the images have no objects of it.

    Args:
        matched: at thresholds whose first is the overlap that counts.
        weights: float64 [I], which images are looked at.
    """
    objects = float(weights @ matched.wanted[:, label - 1])
    if not objects:
        return None
    mine = (matched.label == label) & (weights[matched.image] > 0)
    score, weight = matched.score[mine], weights[matched.image[mine]]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))[
        : len(score)
    ]  # equal scores stand or fall together
    right = np.concatenate(([0.0], np.cumsum(matched.right[0, mine] * weight)[last]))
    wrong = np.concatenate(([0.0], np.cumsum(matched.wrong[0, mine] * weight)[last]))
    points = [Counts(r, w, objects) for r, w in zip(right, wrong, strict=True)]
    best = _best_point(points, goal)
    if best == 0:
        return 1.0
    edge = score[last]
    below = edge[best] if best < len(edge) else edge[-1]
    return float((edge[best - 1] + below) / 2)  # between the last that counts and the first that does not


def _best_point(points: list[Counts], goal: Goal) -> int:
    if goal.kind == "f":
        return int(np.argmax([point.f(goal.beta) for point in points]))
    if goal.kind == "cost":
        costs = [goal.wrong * p.wrong + goal.missed * (p.objects - p.right) for p in points]
        return int(np.argmin(costs))
    if goal.kind == "recall":
        reached = [i for i, p in enumerate(points) if p.recall >= goal.least]
        if not reached:  # as close as it gets, with as few wrong ones as that takes
            return int(np.argmax([p.recall for p in points]))
        return max(reached, key=lambda i: (points[i].precision, -i))
    reached = [i for i, p in enumerate(points) if p.precision >= goal.least]
    return max(reached, key=lambda i: (points[i].recall, -i))


def counts_at(matched: Matched, label: int, threshold: float, weights: np.ndarray) -> Counts:
    """What a class finds at and above a threshold."""
    mine = (matched.label == label) & (matched.score >= threshold)
    weight = weights[matched.image[mine]]
    return Counts(
        float(weight @ matched.right[0, mine]),
        float(weight @ matched.wrong[0, mine]),
        float(weights @ matched.wanted[:, label - 1]),
    )


def operating_points(
    matched: Matched,
    names: tuple[str, ...],
    goal: Goal,
    *,
    tuning: np.ndarray,
    reporting: np.ndarray,
) -> list[dict[str, Any]]:
    """A row for each class: its threshold, chosen on the images `tuning`, and precision and recall on both halves."""
    rows = []
    for label, name in enumerate(names, start=1):
        threshold = choose_threshold(matched, label, goal, tuning)
        row: dict[str, Any] = {"class": name, "threshold": threshold}
        for half, weights in (("tune", tuning), ("report", reporting)):
            counts = None if threshold is None else counts_at(matched, label, threshold, weights)
            row[half] = None
            if counts is not None and counts.objects:
                row[half] = {
                    "precision": counts.precision, "recall": counts.recall, "f": counts.f(goal.beta),
                    "wrong": counts.wrong, "missed": counts.objects - counts.right, "objects": counts.objects,
                }  # fmt: skip
        rows.append(row)
    return rows
