"""Runs that are given: every end is taken as it is meant, nothing that ended is run again, and Ctrl-C saves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from detectune.config.load import load_config
from detectune.errors import UserError
from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.repeats import Repeat, run_repeats, value_of
from detectune.tuner.study import MAX_FAULTS, StudyInterruptedError
from detectune.tuner.trial_job import Job
from detectune.tuner.workers import Ended, Event


class Scripted:
    """A pool of one slot in which the job with seed S ends as `ends[S]` says, one entry for each attempt."""

    def __init__(self, ends: dict[int, list[Any]]) -> None:
        self.ends, self.jobs, self.running = ends, list[Job](), list[Job]()
        self.stopped: list[int] = []

    def free(self) -> list[str]:
        return [] if self.running else ["slot"]

    def start(self, slot: str, job: Job) -> None:
        self.jobs.append(job)
        self.running.append(job)

    def events(self, timeout: float) -> list[Event]:
        if not self.running:
            return []
        job = self.running.pop()
        end = self.ends[job.settings["RNG_SEED"]].pop(0)
        if end == "interrupt":
            self.running.append(job)
            self.ends[job.settings["RNG_SEED"]].insert(0, None)
            os.kill(os.getpid(), signal.SIGINT)
            return []
        return [Ended(job.number, end)]

    def answer(self, number: int, reason: str | None) -> None:
        raise AssertionError("repeats do not ask")

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def kill(self, number: int) -> None:
        raise AssertionError("nothing hangs here")

    def close(self) -> None: ...


def done(value: float) -> Outcome:
    return Outcome("complete", "", (value,), 10)


@pytest.fixture
def repeats(digits: Path) -> list[Repeat]:
    return [
        Repeat("base", digits.parent / "runs" / str(seed), digits, {"SOLVER.BASE_LR": 0.2}, seed)
        for seed in (1, 2)
    ]


def run(repeats: list[Repeat], pool: Scripted) -> list[Outcome]:
    return run_repeats(repeats, metric="classification/accuracy", pool=pool, workers=1, log=lambda _: None)


def test_they_are_ordinary_runs_in_their_order_and_lost_ones_are_taken_up(repeats: list[Repeat]) -> None:
    pool = Scripted({1: [Fault("killed"), None, done(0.5)], 2: [Outcome("infeasible", "Diverged.")]})
    ends = run(repeats, pool)
    assert [value_of(end) for end in ends] == [0.5, None] and ends[1].state == "infeasible"
    assert [job.settings["RNG_SEED"] for job in pool.jobs] == [1, 1, 1, 2]
    job = pool.jobs[0]
    assert job.sampled == {"SOLVER.BASE_LR": 0.2} and not job.asks
    assert job.run == job.settings["OUTPUT_DIR"] == str(repeats[0].folder)


def test_one_that_is_lost_again_and_again_has_failed(repeats: list[Repeat]) -> None:
    pool = Scripted({1: [Fault("killed")] * MAX_FAULTS, 2: [done(0.6)]})
    ends = run(repeats, pool)
    assert ends[0].state == "failed" and value_of(ends[1]) == 0.6


def test_what_has_ended_is_only_read_and_another_configuration_is_refused(repeats: list[Repeat]) -> None:
    folder = repeats[0].folder
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps(done(0.7).as_json()))
    (folder / "config.yaml").write_text(
        load_config(
            repeats[0].base, {"SOLVER.BASE_LR": 0.2, "RNG_SEED": 9, "ROOT_DIR": "/elsewhere"}
        ).to_yaml()
    )
    pool = Scripted({2: [done(0.6)]})
    assert [value_of(end) for end in run(repeats, pool)] == [0.7, 0.6] and len(pool.jobs) == 1
    (folder / "config.yaml").write_text(load_config(repeats[0].base, {"SOLVER.BASE_LR": 0.3}).to_yaml())
    with pytest.raises(UserError, match=r"SOLVER.BASE_LR=0.3 instead of 0.2"):
        run(repeats, Scripted({}))


def test_what_the_user_must_mend_stops_all(repeats: list[Repeat]) -> None:
    pool = Scripted({1: [Halt("The disk is full.")], 2: [done(0.6)]})
    with pytest.raises(UserError, match="The disk is full"):
        run(repeats, pool)
    assert len(pool.jobs) == 1


def test_after_ctrl_c_the_running_one_saves_and_no_other_starts(repeats: list[Repeat]) -> None:
    pool = Scripted({1: ["interrupt"], 2: [done(0.6)]})
    with pytest.raises(StudyInterruptedError, match="same command again"):
        run(repeats, pool)
    assert pool.stopped == [0] and len(pool.jobs) == 1
