"""What a study knows: its space, its objectives, its trials. Plain frozen records, and their JSON (`trials.json`).

Decisions about a study are functions of these records alone; where they are stored, and how trials are run, is not
known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from detectune.config.knob import Scale

FORMAT = 1

Role = Literal["scientific", "nuisance"]
State = Literal["complete", "pruned", "infeasible", "failed", "timed_out", "running", "waiting"]
Direction = Literal["maximize", "minimize"]

ENDS: tuple[State, ...] = ("complete", "pruned", "infeasible", "failed", "timed_out")
"""The states in which a trial stays."""

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Dimension:
    """A knob that is searched, over an interval on a scale or over choices.

    Attributes:
        key: the configuration key, which names the dimension everywhere.
        role: `scientific` is what the question is about; `nuisance` is tuned so that the comparison is fair.
        condition: other key -> the values of it with which this knob exists. None: it always does.
    """

    key: str
    type: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    scale: Scale = "linear"
    choices: tuple[Any, ...] | None = None
    role: Role = "scientific"
    condition: Mapping[str, tuple[Any, ...]] | None = None

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Whether the knob exists for a trial whose other knobs, or settings of its base, have `values`."""
        return all(values.get(key) in allowed for key, allowed in (self.condition or {}).items())


@dataclass(frozen=True)
class Space:
    """The dimensions of a study. A knob stands behind those that its condition names."""

    dimensions: tuple[Dimension, ...]

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __getitem__(self, key: str) -> Dimension:
        return next(dimension for dimension in self.dimensions if dimension.key == key)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dimension.key for dimension in self.dimensions)


@dataclass(frozen=True)
class Objective:
    """A metric of the last evaluation, and which way is better."""

    metric: str
    direction: Direction

    def better(self, value: float, other: float) -> bool:
        """Whether `value` beats `other`."""
        return value > other if self.direction == "maximize" else value < other


@dataclass(frozen=True)
class Trial:
    """One trial: what was tried, how it ended and why.

    Attributes:
        params: key -> value of the knobs that exist in it.
        reason: why it ended as it did; empty for one that is complete, waiting or running.
        values: of the objectives, in their order, where they were measured at the end.
        steps: updates of the weights that were made.
        worker: where it ran, as machine:slot.
        started, ended: UTC, ISO 8601; of the last attempt.
        seconds: wall time of all attempts whose end was seen.
        peak_memory: bytes, of the process.
        run: the run directory, relative to the study's.
        attempts: how often it was started; above 1 after an interruption.
    """

    number: int
    params: Mapping[str, Any]
    state: State
    reason: str = ""
    values: tuple[float, ...] | None = None
    steps: int | None = None
    worker: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    run: str = ""
    seed: int = 0
    attempts: int = 0


@dataclass(frozen=True)
class History:
    """A study as it stands. `base` has the values that the searched keys have in the base configuration."""

    name: str
    objectives: tuple[Objective, ...]
    space: Space
    base: Mapping[str, Any]
    trials: tuple[Trial, ...]

    def ended(self, *states: State) -> list[Trial]:
        """The trials in one of `states`, by number."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def complete(self) -> list[Trial]:
        return self.ended("complete")

    def best(self) -> Trial | None:
        """The complete trial with the best first objective; of equals the earliest."""
        best: Trial | None = None
        for trial in self.complete:
            if trial.values is None:
                continue
            if best is None or best.values is None or self._beats(trial.values[0], best.values[0]):
                best = trial
        return best

    def _beats(self, value: float, other: float) -> bool:
        return self.objectives[0].better(value, other)

    def pareto_front(self) -> list[Trial]:
        """Complete trials that no other beats in one objective without being beaten in another; by number."""
        measured = [trial for trial in self.complete if trial.values is not None]
        return [trial for trial in measured if not any(self._dominates(other, trial) for other in measured)]

    def _dominates(self, trial: Trial, other: Trial) -> bool:
        assert trial.values is not None and other.values is not None
        triples = list(zip(self.objectives, trial.values, other.values, strict=True))
        nowhere_worse = not any(objective.better(b, a) for objective, a, b in triples)
        return nowhere_worse and any(objective.better(a, b) for objective, a, b in triples)


def as_json(history: History) -> dict[str, Any]:
    """What `trials.json` holds."""
    return {
        "format": FORMAT,
        "name": history.name,
        "objectives": [asdict(objective) for objective in history.objectives],
        "space": [dimension_as_json(dimension) for dimension in history.space],
        "base": dict(history.base),
        "trials": [
            asdict(trial) | {"values": None if trial.values is None else list(trial.values)}
            for trial in history.trials
        ],
    }


def from_json(content: Mapping[str, Any]) -> History:
    """The history that `as_json` wrote."""
    return History(
        name=content["name"],
        objectives=tuple(Objective(**objective) for objective in content["objectives"]),
        space=Space(tuple(dimension_from_json(dimension) for dimension in content["space"])),
        base=content["base"],
        trials=tuple(
            Trial(**{**trial, "values": None if trial["values"] is None else tuple(trial["values"])})
            for trial in content["trials"]
        ),
    )


def dimension_as_json(dimension: Dimension) -> dict[str, Any]:
    """A dimension as plain containers."""
    content = asdict(dimension)
    content["choices"] = None if dimension.choices is None else list(dimension.choices)
    condition = dimension.condition
    content["condition"] = None if condition is None else {key: list(v) for key, v in condition.items()}
    return content


def dimension_from_json(content: Mapping[str, Any]) -> Dimension:
    """The dimension that `dimension_as_json` wrote."""
    choices, condition = content["choices"], content["condition"]
    return Dimension(
        **{
            **content,
            "choices": None if choices is None else tuple(choices),
            "condition": None
            if condition is None
            else {key: tuple(allowed) for key, allowed in condition.items()},
        }
    )
