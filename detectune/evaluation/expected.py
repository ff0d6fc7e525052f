"""Did a test reach the numbers that were expected of it? A pure comparison, for regression tests of trained models.

A row of EXPECTED_RESULTS is [data set, task, metric, value] or [data set, task, metric, mean, sd], where Detectron
writes [mean, sd] for the last two. Tasks have Detectron's names (box, mask, keypoint) or those of the metrics (bbox,
segm, keypoints). Knows nothing about configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectune.errors import UserError

TASKS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}


@dataclass(frozen=True)
class Expectation:
    """One number that a data set's metric should have; with `sd`, the spread of it between good runs."""

    dataset: str
    metric: str  # task/metric, such as bbox/AP
    value: float
    sd: float | None = None

    def bounds(self, *, rtol: float, atol: float, sigma_tol: float) -> tuple[float, float]:
        """Smallest and largest acceptable value."""
        allowed = atol + rtol * abs(self.value) if self.sd is None else sigma_tol * self.sd
        return self.value - allowed, self.value + allowed


@dataclass(frozen=True)
class Verdict:
    """An expectation and what came; `actual` is None where it was not measured."""

    expectation: Expectation
    actual: float | None
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.actual is not None and self.low <= self.actual <= self.high


def read_expectations(rows: Sequence[Sequence[Any]]) -> list[Expectation]:
    """The rows of EXPECTED_RESULTS; a `UserError` names the first that cannot be understood."""
    return [_read_row(row) for row in rows]


def judge(
    expectations: Iterable[Expectation],
    measured: Mapping[str, Mapping[str, float | None]],
    *,
    rtol: float,
    atol: float,
    sigma_tol: float,
) -> list[Verdict]:
    """Compare with `measured`, {data set: {task/metric: value}}.

    A value v passes at a distance of at most atol + rtol * v, a mean at a distance of at most sigma_tol * sd.
    """
    return [
        Verdict(
            e, measured.get(e.dataset, {}).get(e.metric), *e.bounds(rtol=rtol, atol=atol, sigma_tol=sigma_tol)
        )
        for e in expectations
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line for each expectation and a last line with the count."""
    names = [f"{v.expectation.dataset} {v.expectation.metric}" for v in verdicts]
    width = max([len(name) for name in names] + [8])
    lines = [f"{'expected':<{width}} {'actual':>8} {'wanted':>8}   range"]
    for name, verdict in zip(names, verdicts, strict=True):
        actual = "-" if verdict.actual is None else f"{verdict.actual:.4f}"
        said = "PASS" if verdict.passed else "FAIL" if verdict.actual is not None else "FAIL: not measured"
        lines.append(
            f"{name:<{width}} {actual:>8} {verdict.expectation.value:>8.4f}   "
            f"{verdict.low:.4f}..{verdict.high:.4f}  {said}"
        )
    passed = sum(verdict.passed for verdict in verdicts)
    return "\n".join([*lines, f"{passed} of {len(verdicts)} expected results were reached."])


def _read_row(row: Sequence[Any]) -> Expectation:
    numbers = list(row[3:])
    if len(numbers) == 1 and isinstance(numbers[0], Sequence) and not isinstance(numbers[0], str):
        numbers = list(numbers[0])
        wanted = 2
    else:
        wanted = len(numbers)
    texts = all(isinstance(text, str) for text in row[:3])
    fine = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if len(row) not in (4, 5) or not texts or not fine or len(numbers) != wanted or wanted not in (1, 2):
        raise UserError(
            f"EXPECTED_RESULTS has the row {list(row)}; write [data set, task, metric, value] or "
            "[data set, task, metric, mean, sd], for example [shapes_val, box, AP, 0.6, 0.01]."
        )
    dataset, task, metric = row[:3]
    return Expectation(dataset, f"{TASKS.get(task, task)}/{metric}", *(float(n) for n in numbers))
