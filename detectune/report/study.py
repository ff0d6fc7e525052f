"""What a study directory says, read into plain records. A study may be running, interrupted or without a finished
trial; a damaged file is left out and named in `problems`.

Reads `trials.json`, `verdict.json`, `importance.json` and each trial's `metrics.jsonl`; writes nothing. Seconds are
wall time, times of day are UTC. Knows nothing about pages (`study_page.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from detectune.errors import UserError
from detectune.report.run import Row, number, read_json, read_rows

STATES = ("complete", "pruned", "infeasible", "failed", "timed_out", "running", "waiting")
Curve = list[tuple[float, float]]  # (iteration, value)


@dataclass(frozen=True)
class Objective:
    """A metric such as bbox/AP and where it should go."""

    metric: str
    maximize: bool

    def better(self, a: float, b: float) -> bool:
        return a > b if self.maximize else a < b


@dataclass(frozen=True)
class SearchedKnob:
    """One dimension of the space: an interval on a scale, or choices."""

    key: str
    low: float | None
    high: float | None
    scale: str  # linear, log or one_minus_log
    choices: list[Any]  # empty for an interval
    role: str  # scientific or nuisance
    condition: Any = None


@dataclass(frozen=True)
class StudyTrial:
    """One trial, however it ended."""

    number: int
    params: dict[str, Any]
    state: str  # one of STATES
    reason: str
    values: list[float] | None  # one per objective; None unless it completed
    steps: int | None
    worker: str
    started: datetime | None
    ended: datetime | None
    seconds: float | None
    peak_memory: float | None  # bytes
    run: str  # folder of the run, relative to the study
    seed: int | None
    attempts: int
    curve: Curve = field(default_factory=list)  # the first objective's metric
    loss: Curve = field(default_factory=list)

    @property
    def last(self) -> float | None:
        """The last value of the first objective that is known: of a pruned trial, where it was stopped."""
        return self.values[0] if self.values else (self.curve[-1][1] if self.curve else None)


@dataclass(frozen=True)
class StudyRecord:
    """Everything that a study directory holds, as far as it could be read."""

    path: Path
    name: str
    objectives: list[Objective]
    knobs: list[SearchedKnob]
    base: dict[str, Any]  # the base configuration's values of the searched keys
    trials: list[StudyTrial]
    verdict: dict[str, Any]
    importance: dict[str, Any]
    problems: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """State -> number of trials, in the order of STATES, without zeros."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def complete(self) -> list[StudyTrial]:
        return [trial for trial in self.trials if trial.values]

    @property
    def best(self) -> StudyTrial | None:
        """The complete trial with the best first objective."""
        return self.best_in(0)

    def best_in(self, index: int) -> StudyTrial | None:
        """The complete trial with the best value of an objective; the earlier of two equal ones."""
        sign = -1 if self.objectives[index].maximize else 1
        complete = [
            (sign * trial.values[index], trial.number, trial) for trial in self.trials if trial.values
        ]
        return min(complete, default=(0, 0, None))[2]


def is_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / "trials.json").is_file() or (path / "study.yaml").is_file()


def read_study(path: Path) -> StudyRecord:
    """The record of a study directory.

    Raises:
        UserError: if there is no such folder, no `trials.json` in it, or one that cannot be understood.
    """
    file = path / "trials.json"
    if not file.is_file():
        raise UserError(
            f"{path} holds no study yet: there is no trials.json in it. `detectune tune` writes it."
        )
    problems: list[str] = []
    try:
        content = json.loads(file.read_text())
        return _record(path, content, problems)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as a study: {type(error).__name__} {error}.") from error


def _record(path: Path, content: Mapping[str, Any], problems: list[str]) -> StudyRecord:
    objectives = [Objective(o["metric"], o.get("direction") != "minimize") for o in content["objectives"]]
    if not objectives:
        raise ValueError("no objective")
    return StudyRecord(
        path=path,
        name=str(content.get("name") or path.resolve().name),
        objectives=objectives,
        knobs=[read_knob(row) for row in content["space"]],
        base=dict(content.get("base") or {}),
        trials=sorted(
            (_trial(path, row, objectives[0].metric, problems) for row in content["trials"]),
            key=lambda trial: trial.number,
        ),
        verdict=read_json(path / "verdict.json", problems, dict) or {},
        importance=read_json(path / "importance.json", problems, dict) or {},
        problems=problems,
    )


def read_knob(row: Mapping[str, Any]) -> SearchedKnob:
    """One row of a `space`."""
    return SearchedKnob(
        key=row["key"],
        low=number(row.get("low")),
        high=number(row.get("high")),
        scale=row.get("scale") or "linear",
        choices=list(row.get("choices") or ()),
        role=row.get("role") or "scientific",
        condition=row.get("condition"),
    )


def _trial(path: Path, row: Mapping[str, Any], metric: str, problems: list[str]) -> StudyTrial:
    state = str(row["state"])
    if state not in STATES:
        raise ValueError(f"trial {row['number']} has the unknown state {state}")
    values = row.get("values")
    run = str(row.get("run") or "")
    curve, loss = _curves(path / run, metric, problems) if run else ([], [])
    return StudyTrial(
        number=int(row["number"]),
        params=dict(row.get("params") or {}),
        state=state,
        reason=str(row.get("reason") or ""),
        values=[float(v) for v in values] if state == "complete" and values else None,
        steps=row.get("steps"),
        worker="" if row.get("worker") is None else str(row["worker"]),
        started=_time(row.get("started")),
        ended=_time(row.get("ended")),
        seconds=number(row.get("seconds")),
        peak_memory=number(row.get("peak_memory")),
        run=run,
        seed=row.get("seed"),
        attempts=int(row.get("attempts") or 1),
        curve=curve,
        loss=loss,
    )


def _curves(folder: Path, metric: str, problems: list[str]) -> tuple[Curve, Curve]:
    """(metric, training loss) over iterations; an empty list where a trial has not come so far."""
    here: list[str] = []
    rows: list[Row] = read_rows(folder / "metrics.jsonl", here)
    problems += [f"{folder.name}/{problem}" for problem in here]
    tests = [row for row in rows if row.get("kind") == "evaluation"]
    first = tests[0].get("dataset") if tests else None
    return (
        _curve([row for row in tests if row.get("dataset") == first], metric),
        _curve([row for row in rows if row.get("kind") == "train"], "loss"),
    )


def _curve(rows: list[Row], name: str) -> Curve:
    return [(float(row["iteration"]), value) for row in rows if (value := number(row.get(name))) is not None]


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(str(text))
    return moment.replace(tzinfo=None)  # all are UTC; some writers say so and some do not
