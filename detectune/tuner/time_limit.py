"""How much of a study's `--minutes` is left for runs after its search, and the command that goes on where it ends."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from detectune.engine.run_directory import write_text
from detectune.tuner.history import History

SPENT = "seconds.json"


@dataclass(frozen=True)
class TimeLimit:
    """No run begins when the minutes of the whole study are over; those that have begun come to their end.

    Attributes:
        study: its folder.
        minutes: of the whole study.
        spent: seconds, by everything before this moment.
        pace: seconds that a run takes, about.
        options: of the command that goes on, besides --minutes.
    """

    study: Path
    minutes: float
    spent: float
    pace: float
    options: str = ""
    _began: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        """Whether no further run may begin."""
        return self.spent + time.monotonic() - self._began >= 60 * self.minutes

    def command(self, missing: int, *, workers: int) -> str:
        """What goes on with so many runs that are missing, with enough minutes for them, about."""
        spent = self.spent + time.monotonic() - self._began
        rounds = math.ceil(missing / max(1, workers))
        needed = math.ceil((max(spent, 60 * self.minutes) + rounds * self.pace) / 60 + 0.5)
        words = ["detectune tune", shlex.quote(str(self.study)), self.options, f"--minutes {needed}"]
        return " ".join(filter(None, words))


def usual_seconds(history: History) -> float:
    """What a trial that came to its end took in the mean; a minute where none says it."""
    known = [trial.seconds for trial in history.complete if trial.seconds]
    return fmean(known) if known else 60.0


@contextmanager
def counted(folder: Path) -> Iterator[None]:
    """Add the seconds inside to what `seconds_in` says of a folder, however it ends."""
    began = time.monotonic()
    try:
        yield
    finally:
        total = seconds_in(folder) + time.monotonic() - began
        write_text(folder / SPENT, json.dumps(round(total, 1)) + "\n")


def seconds_in(folder: Path) -> float:
    """How long earlier calls worked in a folder; 0 if there was none."""
    try:
        return float(json.loads((folder / SPENT).read_text()))
    except FileNotFoundError:
        return 0.0
