"""The study itself: proposes, hands trials to workers, hears them, ends them, until all are accounted for.

One session is one process with one pool of workers. It holds the study's folder by a lock; through a database several
sessions, on several machines, may work on one study. At every moment everything needed to go on is in the storage and
the run directories, so a session may be killed at any line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from detectune.config.load import dump_diff
from detectune.config.tree import Config
from detectune.engine.run_directory import write_text
from detectune.errors import UserError
from detectune.tuner.history import ENDS, History, Trial, as_json
from detectune.tuner.ledger import Ledger, run_folder
from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.samplers import make_pruner
from detectune.tuner.spec import Spec
from detectune.tuner.storage import patiently
from detectune.tuner.trial_job import Job
from detectune.tuner.verdict import make_verdict
from detectune.tuner.workers import Ended, Evaluated, Pool, available_cpus

Result = TypeVar("Result")

TRIALS, VERDICT, BEST, BASE, SPEC = "trials.json", "verdict.json", "best.yaml", "base.yaml", "study.yaml"
MAX_FAULTS = 3  # attempts that may end through no fault of the trial before it counts as failed
CLAIM_SECONDS = 0.2  # after which a claim that another session wrote in the same moment would be seen
GRACE = 120.0  # seconds for a trial that was asked to stop to finish its step and save
BEAT = 20.0  # seconds between signs of life to other sessions
ABANDONED = 120.0  # seconds without one after which a trial may be taken
NOT_ASKED = ("ROOT_DIR",)  # keys that say where a command was typed, not what a study asks


class StudyInterruptedError(KeyboardInterrupt):
    """The study was asked to stop and did; the same command goes on. The message says so."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name}; running trials were saved. "
            "Give the same command again to go on."
        )
        self.exit_code = 128 + number


@dataclass
class _Running:
    """A trial in a slot of this session."""

    trial: Trial
    since: float
    beaten: float
    stop_asked: float | None = None
    why: Outcome | None = None  # how it ends once it has stopped, if it is not to be gone on with


@dataclass
class Session:
    """What one process needs to work on a study.

    Args:
        shared: whether other sessions may work on the same study.
        spent: seconds that earlier sessions took, which count against `spec.minutes`.
        changed: called with the history after each change.
    """

    spec: Spec
    base: Config
    folder: Path
    ledger: Ledger
    pool: Pool
    workers: int
    log: Callable[[str], None]
    shared: bool = False
    spent: float = 0.0
    changed: Callable[[History], None] = lambda _: None
    running: dict[int, _Running] = field(default_factory=dict)
    faults: dict[int, int] = field(default_factory=dict)
    interrupted: int = 0

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        solver = self.base.SOLVER
        last = None if solver.MAX_EPOCHS else solver.MAX_ITER
        first = self.base.TRAIN.EVAL_ITERS or solver.MAX_ITER
        self.pruner = make_pruner(self.spec.pruner, first=first, last=last)
        self.halt: Halt | None = None

    def run(self) -> History:
        """Work until every trial has ended, the time is over, or something stops all of them.

        Raises:
            StudyInterruptedError: after Ctrl-C or SIGTERM, when running trials have saved.
            UserError: for what the user must mend first; nothing that was finished is lost.
        """
        with _Signals(self._interrupt):
            for number, outcome in self._ask(self.ledger.unfinished_ends):
                self._finish(number, outcome, seconds=0.0)
            self._write()
            while True:
                all_given = self._fill() if self._may_start() else True
                if all_given and not self.running and not (self._may_start() and self._others_work()):
                    break
                for event in self.pool.events(timeout=0.5 if self.running else 1.0):
                    self._hear(event)
                self._watch_times()
        history = self._write(final=True)
        if self.halt is not None:
            raise UserError(self.halt.message)
        if self.interrupted:
            raise StudyInterruptedError(self.interrupted)
        return history

    # ---- starting

    def _may_start(self) -> bool:
        return not self.interrupted and self.halt is None and not self._time_is_over()

    def _others_work(self) -> bool:
        """Whether to wait for trials that other sessions hold: theirs to end, ours to take if they die."""
        return self.shared and self._ask(self.ledger.count_unfinished) > 0

    def _fill(self) -> bool:
        """Give trials to the free slots; whether there was none left to give."""
        for slot in self.pool.free():
            trial = self._next()
            if trial is None:
                return True
            self._start(trial, slot)
        return False

    def _next(self) -> Trial | None:
        """A trial that was begun and left, else a new one."""
        for number in self._ask(lambda: self.ledger.abandoned(after=ABANDONED if self.shared else 0.0)):
            if number not in self.running:
                return self._ask(partial(self.ledger.settle, number))
        return self._ask(self.ledger.propose)

    def _start(self, trial: Trial, slot: str) -> None:
        number = trial.number
        started = _now()
        self._ask(lambda: self.ledger.claim(number, worker=slot, started=started))
        if self.shared:
            time.sleep(CLAIM_SECONDS)
            if not self._ask(lambda: self.ledger.is_mine(number)):
                return  # another session claimed it in the same moment, and later
        self.running[number] = _Running(trial, time.monotonic(), time.monotonic())
        self.pool.start(slot, self._job(trial))
        self._write()

    def _job(self, trial: Trial) -> Job:
        folder = self.folder / run_folder(trial.number)
        threads = min(self.base.DATA_LOADER.NUM_THREADS, available_cpus() // self.workers)
        return Job(
            number=trial.number,
            run=str(folder),
            base=str(self.folder / BASE),
            sampled=trial.params,
            settings={
                "RNG_SEED": trial.seed,
                "OUTPUT_DIR": str(folder),
                "TRAIN.AUTO_RESUME": True,
                "DATA_LOADER.NUM_THREADS": threads,
            },
            metrics=tuple(objective.metric for objective in self.spec.objectives),
            asks=self.spec.pruner != "none",
        )

    # ---- hearing

    def _hear(self, event: Evaluated | Ended) -> None:
        if event.number not in self.running:
            return
        if isinstance(event, Evaluated):
            self._judge(event)
        else:
            self._end(event)
        self._write()

    def _judge(self, event: Evaluated) -> None:
        """Keep what a trial measured; answer whether it goes on."""
        objective = self.spec.objectives[0]
        value = event.metrics.get(objective.metric)
        reason = None
        if value is not None and len(self.spec.objectives) == 1:
            self._ask(lambda: self.ledger.report(event.number, event.step, value))
            last = event.step >= self.base.SOLVER.MAX_ITER
            if (
                event.asks
                and not last
                and self._ask(lambda: self.ledger.should_prune(event.number, self.pruner))
            ):
                reason = (
                    f"{self.spec.pruner} ended it at step {event.step} with {objective.metric} {value:.4g}, behind the "
                    "others at that step"
                )
        if event.asks:
            self.pool.answer(event.number, reason)

    def _end(self, event: Ended) -> None:
        state = self.running.pop(event.number)
        seconds, end = time.monotonic() - state.since, event.end
        if isinstance(end, Fault):
            end = self._after_fault(event.number, end)
        if end is None and state.why is not None:
            end = state.why
        if isinstance(end, Halt):
            self.halt = self.halt or end
            end = None
            self._stop_all()
        if end is None:
            self._ask(lambda: self.ledger.interrupted(event.number, seconds=seconds))
            return
        peak = end.peak_memory or event.peak_memory
        done = Outcome(end.state, end.reason, end.values, end.steps, peak)
        self._finish(event.number, done, seconds=seconds)

    def _after_fault(self, number: int, fault: Fault) -> Outcome | None:
        """None: another attempt, with the same seed, from the last checkpoint."""
        self.faults[number] = self.faults.get(number, 0) + 1
        if self.faults[number] >= MAX_FAULTS:
            return Outcome("failed", f"{MAX_FAULTS} attempts were lost: {fault.reason}.")
        self.log(f"Trial {number} was lost: {fault.reason}. It is taken up again.")
        return None

    def _finish(self, number: int, outcome: Outcome, *, seconds: float) -> None:
        self._ask(lambda: self.ledger.finish(number, outcome, ended=_now(), seconds=seconds))
        self._refuse_hopeless()

    def _refuse_hopeless(self) -> None:
        """Stop when the first trials were all refused for one reason: it is the configuration's, not theirs."""
        history = self._ask(self.ledger.history)
        ended = history.ended(*ENDS)
        first = ended[: max(3, self.workers)]
        same = {trial.reason for trial in first}
        if (
            len(first) == max(3, self.workers) == len(ended)
            and len(same) == 1
            and first[0].state != "complete"
        ):
            reason = first[0].reason
            if reason.startswith("Refused: ") or first[0].state == "failed":
                self.halt = Halt(f"The first {len(first)} trials all ended in the same way: {reason}")
                self._stop_all()

    # ---- time

    def _time_is_over(self) -> bool:
        minutes = self.spec.minutes
        return minutes is not None and self.spent + time.monotonic() - self.began >= 60 * minutes

    def _watch_times(self) -> None:
        now = time.monotonic()
        for number, state in list(self.running.items()):
            if state.stop_asked is None:
                self._stop_if_late(number, state, now)
            elif now - state.stop_asked > GRACE:
                self.pool.kill(number)
            if self.shared and now - state.beaten > BEAT:
                state.beaten = now
                self._ask(partial(self.ledger.beat, number))

    def _stop_if_late(self, number: int, state: _Running, now: float) -> None:
        limit = self.spec.trial_minutes
        if limit is not None and now - state.since > 60 * limit:
            self._stop(number, Outcome("timed_out", f"It took longer than trial_minutes, {limit:g}."))
        elif self._time_is_over() or self.interrupted or self.halt is not None:
            self._stop(number, None)  # it saves, and goes on when the study does

    def _stop(self, number: int, why: Outcome | None) -> None:
        state = self.running[number]
        state.stop_asked, state.why = time.monotonic(), why
        self.pool.stop(number)

    def _stop_all(self) -> None:
        for number, state in self.running.items():
            if state.stop_asked is None:
                self._stop(number, None)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = number
        os.write(2, b"\nStopping: running trials finish their step and save; Ctrl-C again stops at once.\n")

    # ---- writing

    def _ask(self, call: Callable[[], Result]) -> Result:
        return patiently(call, log=self.log)

    def _write(self, *, final: bool = False) -> History:
        """Write trials.json, and at the end the verdict."""
        history: History = self._ask(self.ledger.history)
        spent = round(self.spent + time.monotonic() - self.began, 1)
        content = as_json(history) | {"seconds": spent}
        write_text(self.folder / TRIALS, json.dumps(content, indent=1) + "\n")
        if final:
            verdict = make_verdict(history)
            verdict["cost"]["study_seconds"] = spent
            write_text(self.folder / VERDICT, json.dumps(verdict, indent=2) + "\n")
            best = history.best()
            if best is not None:
                write_text(self.folder / BEST, dump_diff(self.base.with_overrides(best.params)))
        self.changed(history)
        return history


def owner_name() -> str:
    """A name for this session that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Signals:
    """Inside, Ctrl-C and SIGTERM call `handler`."""

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self.handler = handler

    def __enter__(self) -> None:
        self.previous: Mapping[int, Any] = {
            number: signal.signal(number, self.handler) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
