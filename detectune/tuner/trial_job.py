"""What a worker is told about the trial it shall run. Travels as JSON; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a worker must know to run a trial.

    Attributes:
        run: the run directory.
        base: the file with the base configuration.
        sampled: key -> value that was proposed.
        settings: key -> value of what else differs from the base: seed, folder, threads.
        metrics: the objectives.
        asks: whether the study decides after each evaluation if the trial goes on.
    """

    number: int
    run: str
    base: str
    sampled: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: tuple[str, ...]
    asks: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Job:
        return Job(**{**content, "metrics": tuple(content["metrics"])})
