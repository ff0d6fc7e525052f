"""Runs that are given rather than searched for: configurations trained again with other seeds, in a study's pool.

A repeat is a trial without a proposal. Whatever has ended is read from its `outcome.json` and not run again, so the
same call goes on after an interruption; a folder that holds another configuration is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.engine.interrupt import catch_interrupts
from detectune.errors import UserError
from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.study import GRACE, MAX_FAULTS, NOT_ASKED, StudyInterruptedError
from detectune.tuner.trial_job import Job
from detectune.tuner.trial_program import read_outcome
from detectune.tuner.workers import Ended, Pool, available_cpus

OWN = ("RNG_SEED", "OUTPUT_DIR", "TRAIN.AUTO_RESUME", "DATA_LOADER.NUM_THREADS", *NOT_ASKED)
"""Keys in which a repeat may differ from its configuration."""


@dataclass(frozen=True)
class Repeat:
    """One run: the configuration in file `base` with `settings`, seed `seed`, in `folder`."""

    name: str  # for the log
    folder: Path
    base: Path
    settings: Mapping[str, Any]
    seed: int

    def config(self) -> Config:
        """What it trains, apart from `OWN`."""
        return load_config(self.base, dict(self.settings))


def run_repeats(
    repeats: Sequence[Repeat],
    *,
    metric: str,
    pool: Pool,
    workers: int,
    log: Callable[[str], None],
    over: Callable[[], bool] = lambda: False,
) -> list[Outcome | None]:
    """How each ended, in their order; those that ended before are only read.

    None stands for those that were not begun because the time was `over`.

    Raises:
        UserError: if a folder holds something else, or for what stops all of them; what has ended stays.
        StudyInterruptedError: after Ctrl-C, when running ones have saved.
    """
    for repeat in repeats:
        refuse_other(repeat)
    ends = {i: found for i, repeat in enumerate(repeats) if (found := read_outcome(repeat.folder))}
    waiting = [i for i in range(len(repeats)) if i not in ends]
    running: dict[int, float] = {}  # number -> since when it has been asked to stop; 0 while it has not
    faults: dict[int, int] = {}
    halt: Halt | None = None
    with catch_interrupts() as interrupt:
        while running or (waiting and halt is None and not interrupt.pending() and not over()):
            stopping = interrupt.pending() or halt is not None
            for slot in [] if stopping or over() else pool.free():
                if waiting:
                    number = waiting.pop(0)
                    running[number] = 0.0
                    pool.start(slot, _job(number, repeats[number], metric=metric, workers=workers))
            for event in pool.events(timeout=0.5):
                if not isinstance(event, Ended) or event.number not in running:
                    continue
                del running[event.number]
                end: Outcome | Fault | Halt | None = event.end
                if isinstance(end, Fault):
                    end = _after_fault(event.number, end, faults, waiting, repeats, log)
                if isinstance(end, Halt):
                    halt = halt or end
                elif end is None and not stopping and event.number not in waiting:
                    waiting.insert(0, event.number)  # someone else stopped it, after it had saved
                elif end is not None:
                    ends[event.number] = end
                    log(_line(repeats[event.number], end, metric))
            if interrupt.pending() or halt is not None:
                _stop(running, pool)
    if halt is not None:
        raise UserError(halt.message)
    if interrupt.pending():
        raise StudyInterruptedError(interrupt.number)
    return [ends.get(i) for i in range(len(repeats))]


def refuse_other(repeat: Repeat) -> None:
    """A `UserError` if the folder holds a run of another configuration."""
    file = repeat.folder / "config.yaml"
    if not file.is_file():
        return
    found, wanted = load_config(file).flat(), repeat.config().flat()
    key = next((key for key in wanted if key not in OWN and found[key] != wanted[key]), None)
    if key is not None:
        raise UserError(
            f"{repeat.folder} holds a run with {key}={found[key]!r} instead of {wanted[key]!r}; remove that folder, or "
            "choose another --output."
        )


def value_of(outcome: Outcome | None) -> float | None:
    """What a repeat measured; None if it did not come to its end."""
    if outcome is None or outcome.state != "complete" or not outcome.values:
        return None
    return outcome.values[0]


def _job(number: int, repeat: Repeat, *, metric: str, workers: int) -> Job:
    threads = min(repeat.config().DATA_LOADER.NUM_THREADS, available_cpus() // max(1, workers))
    return Job(
        number=number,
        run=str(repeat.folder),
        base=str(repeat.base),
        sampled=dict(repeat.settings),
        settings={
            "RNG_SEED": repeat.seed,
            "OUTPUT_DIR": str(repeat.folder),
            "TRAIN.AUTO_RESUME": True,
            "DATA_LOADER.NUM_THREADS": threads,
        },
        metrics=(metric,),
        asks=False,
    )


def _after_fault(
    number: int,
    fault: Fault,
    faults: dict[int, int],
    waiting: list[int],
    repeats: Sequence[Repeat],
    log: Callable[[str], None],
) -> Outcome | None:
    faults[number] = faults.get(number, 0) + 1
    if faults[number] >= MAX_FAULTS:
        return Outcome("failed", f"{MAX_FAULTS} attempts were lost: {fault.reason}.")
    log(f"{repeats[number].name} was lost: {fault.reason}. It is taken up again.")
    waiting.insert(0, number)
    return None


def _stop(running: dict[int, float], pool: Pool) -> None:
    now = time.monotonic()
    for number, since in list(running.items()):
        if not since:
            running[number] = now
            pool.stop(number)
        elif now - since > GRACE:
            pool.kill(number)


def _line(repeat: Repeat, end: Outcome, metric: str) -> str:
    value = value_of(end)
    said = f"{metric} {value:.4g}" if value is not None else f"{end.state}: {end.reason}"
    return f"{repeat.name}, seed {repeat.seed}: {said}"
