"""Numbers of a study's page that are more than a drawing: best of n, the Pareto front, the best so far.

Pure functions of numbers and records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectune.report.study import Objective, StudyRecord, StudyTrial


def best_of_n(
    values: Sequence[float | None], *, maximize: bool, quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> list[tuple[int, list[float | None]]]:
    """(n, quantiles of the best of n draws with replacement from `values`) for n = 1 .. len(values).

    This is what bootstrapping n trials again and again converges to, in closed form: of N sorted values, the best of
    n draws is at most the k-th with probability (k/N)^n. None in `values` is a trial without a value, worse than any;
    None in the result says that so many draws do not yet find a value.
    """
    sign = 1 if maximize else -1
    ordered = sorted(-math.inf if v is None else sign * v for v in values)
    total = len(ordered)

    def quantile(q: float, n: int) -> float | None:
        found = ordered[max(math.ceil(total * q ** (1 / n) - 1e-9), 1) - 1]
        return sign * found if math.isfinite(found) else None

    wanted = quantiles if maximize else tuple(reversed(quantiles))
    return [(n, [quantile(q, n) for q in wanted]) for n in range(1, total + 1)]


def pareto_front(trials: Sequence[StudyTrial], objectives: Sequence[Objective]) -> list[StudyTrial]:
    """The complete trials that no other one beats in one objective without losing in another, by the first."""

    def signed(trial: StudyTrial) -> list[float]:
        assert trial.values is not None
        return [v if o.maximize else -v for v, o in zip(trial.values, objectives, strict=True)]

    complete = [(trial, signed(trial)) for trial in trials if trial.values]
    front = [
        (trial, own)
        for trial, own in complete
        if not any(
            other != own and all(b >= a for a, b in zip(own, other, strict=True)) for _, other in complete
        )
    ]
    return [trial for trial, _ in sorted(front, key=lambda pair: pair[1], reverse=True)]


def best_so_far(study: StudyRecord) -> list[tuple[int, float]]:
    """(trial number, best value of the first objective up to it) where the best changed."""
    steps: list[tuple[int, float]] = []
    objective = study.objectives[0]
    for trial in study.complete:
        assert trial.values is not None
        if not steps or objective.better(trial.values[0], steps[-1][1]):
            steps.append((trial.number, trial.values[0]))
    return steps


def value_limits(study: StudyRecord, index: int = 0) -> tuple[float, float] | None:
    """(low, high) of an objective's axis: all complete values, but the worst ones far below the rest are cut off.

    A few hopeless trials would squeeze the interesting ones into a line; what is cut is drawn at the edge.
    """
    values = sorted(trial.values[index] for trial in study.complete if trial.values)
    if not values:
        return None
    best = values[-1] if study.objectives[index].maximize else values[0]
    worst = values[0] if study.objectives[index].maximize else values[-1]
    reach = 3 * abs(best - values[len(values) // 2])
    if reach and abs(best - worst) > reach:
        worst = best - reach if study.objectives[index].maximize else best + reach
    low, high = min(best, worst), max(best, worst)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
