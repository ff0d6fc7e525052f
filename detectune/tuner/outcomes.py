"""How a trial ended, and why: from what `train` returned or raised to one of the ends of a trial.

`infeasible` says something about the values that were tried (they diverge, they need too much memory, they contradict
each other), `failed` about the program. What says nothing about either, a full disk or a killed process, ends no
trial: it is tried again (`Fault`), or the study stops and says what to mend (`Halt`).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from detectune.errors import DataError, OutputError, UserError, WeightsError
from detectune.tuner.history import State

PRUNED = "pruned: "  # begins the stop reason of a run that a pruner ended


@dataclass(frozen=True)
class Outcome:
    """An end. Fields as in `history.Trial`."""

    state: State
    reason: str = ""
    values: tuple[float, ...] | None = None
    steps: int | None = None
    peak_memory: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"values": None if self.values is None else list(self.values)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Outcome:
        values = content["values"]
        return Outcome(**{**content, "values": None if values is None else tuple(values)})


@dataclass(frozen=True)
class Fault:
    """An attempt that ended through no fault of the trial: it is started again, with the same seed."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """Something that would stop every trial, and that the user can mend."""

    message: str


def outcome_of_run(
    metrics: Mapping[str, float], wanted: Sequence[str], *, steps: int, stopped: str | None
) -> Outcome:
    """The end of a run that came to its end, with the `wanted` metrics of its last evaluation."""
    if stopped is not None and stopped.startswith(PRUNED):
        return Outcome("pruned", stopped.removeprefix(PRUNED), steps=steps)
    missing = next((name for name in wanted if name not in metrics), None)
    if missing is not None:
        measured = ", ".join(sorted(metrics)) or "nothing"
        return Outcome("failed", f"{missing} was not measured; there is {measured}.", steps=steps)
    values = tuple(float(metrics[name]) for name in wanted)
    if not all(map(math.isfinite, values)):
        shown = ", ".join(f"{name}={value}" for name, value in zip(wanted, values, strict=True))
        return Outcome("infeasible", f"The objective is no finite number: {shown}.", steps=steps)
    return Outcome("complete", "", values, steps)


def outcome_of_error(error: BaseException, *, steps: int, peak_memory: int) -> Outcome | Fault | Halt:
    """The end of a run that raised `error`."""
    text = str(error).strip() or type(error).__name__
    if is_out_of_memory(error):
        return Outcome(
            "infeasible",
            f"Out of memory at a peak of {peak_memory / 2**30:.2f} GiB: {text.splitlines()[0]}",
            steps=steps,
            peak_memory=peak_memory,
        )
    if type(error).__name__ == "NonFiniteLossError":
        return Outcome("infeasible", f"Diverged: {text}", steps=steps)
    if isinstance(error, OutputError):
        in_use = isinstance(error.__cause__, BlockingIOError)
        return Fault(text) if in_use else Halt(text)
    if isinstance(error, DataError | WeightsError):
        return Halt(text)
    if isinstance(error, UserError):
        return Outcome("infeasible", f"Refused: {text}", steps=steps)
    return Outcome("failed", f"{type(error).__name__}: {text}", steps=steps)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no more memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
