"""The study's rules, with a pool that plays the workers: no process, no training, every kind of end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.tuner.history import History, from_json
from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.session import run_study
from detectune.tuner.space import Entry
from detectune.tuner.spec import Request, complete
from detectune.tuner.trial_job import Job
from detectune.tuner.workers import Ended, Evaluated

Play = Callable[[Job, int], Sequence[Evaluated | Ended]]
"""(job, attempt) -> what the trial says, in order."""


class StagedPool:
    """Slots whose trials say what `play` tells; one event at a time, slot after slot."""

    def __init__(self, workers: int, play: Play) -> None:
        self.play, self.attempts = play, dict[int, int]()
        self.slots: dict[str, list[Evaluated | Ended]] = {f"here:{i}": [] for i in range(workers)}
        self.busy: dict[str, int] = {}
        self.answers: list[tuple[int, str | None]] = []
        self.stopped: list[int] = []
        self.jobs: list[Job] = []

    def free(self) -> list[str]:
        return [slot for slot in self.slots if slot not in self.busy]

    def start(self, slot: str, job: Job) -> None:
        self.attempts[job.number] = self.attempts.get(job.number, 0) + 1
        self.jobs.append(job)
        self.busy[slot] = job.number
        self.slots[slot] = list(self.play(job, self.attempts[job.number]))

    def events(self, timeout: float) -> list[Evaluated | Ended]:
        for slot, waiting in self.slots.items():
            if slot in self.busy and (waiting or self.busy[slot] in self.stopped):
                event = waiting.pop(0) if waiting else Ended(self.busy[slot], None)
                if isinstance(event, Ended):
                    del self.busy[slot]
                return [event]
        return []

    def answer(self, number: int, reason: str | None) -> None:
        self.answers.append((number, reason))
        if reason is not None:
            slot = next(slot for slot, busy in self.busy.items() if busy == number)
            self.slots[slot] = [Ended(number, Outcome("pruned", reason, steps=10))]

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def kill(self, number: int) -> None:
        self.stop(number)

    def close(self) -> None:
        return


def quality(job: Job) -> float:
    return -abs(job.sampled["SOLVER.BASE_LR"] - 0.01)


def complete_at_once(job: Job, attempt: int) -> list[Ended]:
    return [Ended(job.number, Outcome("complete", "", (quality(job),), 30))]


def base() -> Config:
    names = {"TRAIN.DATASETS": ["shapes_train"], "TEST.DATASETS": ["shapes_val"]}
    return load_config(None, {"TRAIN.EVAL_ITERS": 10, "SOLVER.MAX_ITER": 30} | names)


def run(
    folder: Path, play: Play, *, workers: int = 2, pools: list[StagedPool] | None = None, **options: Any
) -> History:
    knobs = [Entry(key, {}, "") for key in ("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY")]
    request = Request(knobs=knobs, **({"trials": 6, "sampler": "sobol"} | options))
    spec = complete(request, base(), default_name="staged", default_metric="bbox/AP")
    pool = StagedPool(workers, play)
    if pools is not None:
        pools.append(pool)

    @contextmanager
    def make_pool() -> Iterator[StagedPool]:
        yield pool

    return run_study(
        spec, base(), folder, workers=workers, log=lambda _: None, make_pool=make_pool, changed=lambda _: None
    )


@pytest.mark.parametrize("sampler", ["sobol", "random", "grid"])
def test_one_worker_or_four_propose_the_same_set(tmp_path: Path, sampler: str) -> None:
    def uneven(job: Job, attempt: int) -> list[Evaluated | Ended]:
        said = [Evaluated(job.number, 10 * n, {"bbox/AP": 0.1}, False) for n in range(1, job.number % 3 + 1)]
        return [*said, *complete_at_once(job, attempt)]

    one = run(tmp_path / "one", uneven, workers=1, trials=9, sampler=sampler)
    four = run(tmp_path / "four", uneven, workers=4, trials=9, sampler=sampler)
    other = run(tmp_path / "other", uneven, workers=1, trials=9, sampler=sampler, seed=2)
    assert [t.params for t in one.trials] == [t.params for t in four.trials]
    assert [t.seed for t in one.trials] == [t.seed for t in four.trials]
    assert len({t.seed for t in one.trials}) == 9
    assert [t.params for t in one.trials] != [t.params for t in other.trials]


def test_every_end_is_kept_with_its_reason(tmp_path: Path) -> None:
    ends = [
        Outcome("complete", "", (0.5,), 30),
        Outcome("infeasible", "Diverged: loss is nan", steps=3),
        Outcome("infeasible", "Out of memory at a peak of 3.20 GiB", steps=0, peak_memory=3 * 2**30),
        Outcome("failed", "KeyError: 'x'", steps=2),
        Outcome("pruned", "behind the others", steps=10),
        Outcome("complete", "", (0.7,), 30),
    ]
    history = run(tmp_path / "s", lambda job, _: [Ended(job.number, ends[job.number], 2**20)])
    assert [(t.state, t.reason, t.values) for t in history.trials] == [
        (end.state, end.reason, end.values) for end in ends
    ]
    assert history.trials[2].peak_memory == 3 * 2**30 and history.trials[0].peak_memory == 2**20
    best = history.best()
    assert best is not None and best.number == 5
    verdict = json.loads((tmp_path / "s" / "verdict.json").read_text())
    assert verdict["ends"] == {"complete": 2, "pruned": 1, "infeasible": 2, "failed": 1}
    assert [row["reason"] for row in verdict["trials"]] == [end.reason for end in ends]
    assert verdict["best"]["values"] == {"bbox/AP": 0.7} and verdict["cost"]["steps"] == 75
    assert from_json(json.loads((tmp_path / "s" / "trials.json").read_text())) == history


def test_a_lost_trial_is_started_again_with_the_same_seed(tmp_path: Path) -> None:
    def lost_once(job: Job, attempt: int) -> list[Ended]:
        return [Ended(job.number, Fault("killed"))] if attempt == 1 else complete_at_once(job, attempt)

    pools: list[StagedPool] = []
    history = run(tmp_path / "s", lost_once, pools=pools, trials=3)
    assert [(t.state, t.attempts) for t in history.trials] == [("complete", 2)] * 3
    for trial in history.trials:
        jobs = [job for job in pools[0].jobs if job.number == trial.number]
        assert len(jobs) == 2 and jobs[0] == jobs[1] and jobs[0].settings["RNG_SEED"] == trial.seed


def test_a_trial_that_is_always_lost_fails_in_the_end(tmp_path: Path) -> None:
    def always(job: Job, attempt: int) -> list[Ended]:
        bad = job.number == 1
        return [Ended(job.number, Fault("ended by SIGKILL"))] if bad else complete_at_once(job, attempt)

    history = run(tmp_path / "s", always)
    assert [t.state for t in history.trials].count("complete") == 5
    assert history.trials[1].state == "failed" and "3 attempts were lost" in history.trials[1].reason


def test_a_full_disk_stops_the_study_and_the_same_command_goes_on(tmp_path: Path) -> None:
    def full(job: Job, attempt: int) -> list[Ended]:
        return [Ended(job.number, Halt("the disk is full"))] if job.number == 2 else complete_at_once(job, 1)

    with pytest.raises(UserError, match="the disk is full"):
        run(tmp_path / "s", full)
    before = from_json(json.loads((tmp_path / "s" / "trials.json").read_text()))
    assert before.trials[2].state == "waiting" and len(before.complete) >= 2
    after = run(tmp_path / "s", complete_at_once)
    assert [t.state for t in after.trials] == ["complete"] * 6
    assert [t for t in after.trials if t.number in {b.number for b in before.complete}] == before.complete


def test_what_every_trial_refuses_stops_the_study(tmp_path: Path) -> None:
    refused = Outcome("infeasible", "Refused: SOLVER.STEPS must begin with 0", steps=0)
    with pytest.raises(UserError, match="The first 3 trials all ended in the same way: Refused: SOLVER"):
        run(tmp_path / "s", lambda job, _: [Ended(job.number, refused)], workers=1)


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_pruner_ends_the_bad_and_not_the_best(tmp_path: Path, pruner: str) -> None:
    def curve(job: Job, attempt: int) -> list[Evaluated | Ended]:
        said = [Evaluated(job.number, step, {"bbox/AP": quality(job) * 30 / step}, True) for step in (10, 20)]
        return [*said, *complete_at_once(job, attempt)]

    pools: list[StagedPool] = []
    history = run(tmp_path / "s", curve, workers=1, trials=16, pruner=pruner, pools=pools)
    pruned, finished = history.ended("pruned"), history.complete
    assert len(pruned) >= 3 and len(pruned) + len(finished) == 16
    assert f"{pruner} ended it at step" in pruned[0].reason
    assert max(map(value_at_end, finished)) >= max(map(value_at_end, pruned))


def value_at_end(trial: Any) -> float:
    return -abs(float(trial.params["SOLVER.BASE_LR"]) - 0.01)


def endless_second(job: Job, attempt: int) -> list[Ended]:
    return [] if job.number == 1 else complete_at_once(job, attempt)


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    history = run(tmp_path / "s", endless_second, trial_minutes=0.005)
    assert [t.state for t in history.trials].count("complete") == 5
    assert history.trials[1].state == "timed_out" and "trial_minutes" in history.trials[1].reason


def test_a_trial_that_the_minutes_of_the_study_cut_goes_on_when_there_are_more(tmp_path: Path) -> None:
    history = run(tmp_path / "s", endless_second, minutes=0.01, workers=1)
    assert [t.state for t in history.trials] == ["complete", "waiting"] and history.trials[1].attempts == 1
    verdict = json.loads((tmp_path / "s" / "verdict.json").read_text())
    assert verdict["ends"] == {"complete": 1, "waiting": 1} and verdict["cost"]["trials"] == 1
    history = run(tmp_path / "s", complete_at_once, minutes=10, workers=1)
    assert len(history.complete) == 6 and history.trials[1].attempts == 2


def test_another_question_is_not_asked_of_the_same_folder(tmp_path: Path) -> None:
    run(tmp_path / "s", complete_at_once, trials=2)
    with pytest.raises(UserError, match="seed was 1, is 7"):
        run(tmp_path / "s", complete_at_once, trials=2, seed=7)
    assert len(run(tmp_path / "s", complete_at_once, trials=3).trials) == 3


def test_the_same_question_from_another_working_directory_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "s", complete_at_once, trials=2)
    monkeypatch.chdir(tmp_path)  # which is what ROOT_DIR is where nobody gives it
    assert str(tmp_path) == base().ROOT_DIR
    assert len(run(tmp_path / "s", complete_at_once, trials=3).trials) == 3


def test_several_objectives_leave_a_front(tmp_path: Path) -> None:
    def play(job: Job, attempt: int) -> list[Ended]:
        accuracy, seconds = [(0.5, 1.0), (0.6, 2.0), (0.4, 0.5), (0.5, 2.0), (0.6, 1.5), (0.1, 9.0)][
            job.number
        ]
        return [Ended(job.number, Outcome("complete", "", (accuracy, seconds), 30))]

    history = run(tmp_path / "s", play, objectives=["bbox/AP", "seconds_per_image"])
    assert [trial.number for trial in history.pareto_front()] == [0, 2, 4]
    verdict = json.loads((tmp_path / "s" / "verdict.json").read_text())
    assert [trial["number"] for trial in verdict["pareto_front"]] == [0, 2, 4]


@pytest.mark.parametrize("sampler", ["auto", "gp", "tpe", "cmaes"])
def test_samplers_that_learn_find_the_good_region(tmp_path: Path, sampler: str) -> None:
    def hill(job: Job, attempt: int) -> list[Ended]:
        from math import log10

        value = -((log10(job.sampled["SOLVER.BASE_LR"]) + 2.5) ** 2)
        return [Ended(job.number, Outcome("complete", "", (value,), 30))]

    history = run(tmp_path / "s", hill, trials=16, sampler=sampler, workers=1)
    best = history.best()
    assert (
        best is not None and best.values is not None and best.values[0] > -0.05
    )  # within a quarter of a decade
    late = [trial.values[0] for trial in history.trials[10:] if trial.values]
    early = [trial.values[0] for trial in history.trials[:6] if trial.values]
    assert sorted(late)[len(late) // 2] > sorted(early)[len(early) // 2]
