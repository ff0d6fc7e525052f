"""The best run again: a real gain is adopted, the luckiest of equals is not, and ties are named."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detectune.tuner.confirm import (
    Candidate,
    choose,
    conclude,
    confirm,
    new_seeds,
    newer_best,
    with_earlier,
    worth_a_second_look,
)
from detectune.tuner.history import Dimension, History, Objective, Space, Trial, as_json
from detectune.tuner.judgement import read_confirmed, write_judgement
from detectune.tuner.outcomes import Outcome
from detectune.tuner.study import BASE
from detectune.tuner.time_limit import TimeLimit, seconds_in
from detectune.tuner.trial_job import Job
from detectune.tuner.workers import Ended, Event

SPACE = Space((Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log"),))


def drawn(seed: int, means: list[float], *, seeds: int = 3, spread: float = 0.01) -> list[Candidate]:
    """Candidates with these true means, the first of them the base."""
    draws = np.random.default_rng(seed)
    return [
        Candidate("base" if i == 0 else f"trial {i}", i or None, {"SOLVER.BASE_LR": 0.1 * i},
                  tuple((mean + spread * draws.normal(size=seeds)).tolist()))
        for i, mean in enumerate(means)
    ]  # fmt: skip


def in_two_looks(both: list[Candidate]) -> tuple[dict, bool]:
    """What is concluded of candidates that have the values of both looks, and whether the second was taken."""
    seeds = len(both[0].values) // 2
    first = [replace(c, values=c.values[:seeds]) for c in both]
    found = conclude(first, maximize=True)
    again = worth_a_second_look(found, first)
    if not again:
        return found, False
    return conclude([b if f in again else f for b, f in zip(both, first, strict=True)], maximize=True), True


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rivals", [1, 3, 8])
def test_of_equals_none_is_adopted(seeds: int, rivals: int) -> None:
    ends = [in_two_looks(drawn(n, [0.5] * (rivals + 1), seeds=2 * seeds)) for n in range(400)]
    assert sum(found["change"] for found, _ in ends) <= 20  # 5 %


def test_a_second_look_finds_what_the_first_could_not() -> None:
    """A base that varies much more than what is better: three seeds leave two degrees of freedom."""
    seen = [in_two_looks([drawn(n, [0.85], seeds=6, spread=0.04)[0], *drawn(n, [0.99] * 4, seeds=6, spread=3e-4)[1:]])
            for n in range(100)]  # fmt: skip
    at_once = sum(found["change"] for found, second in seen if not second)
    assert at_once < 60 and sum(found["change"] for found, _ in seen) >= 85


@pytest.mark.parametrize("maximize", [True, False])
def test_a_gain_far_beyond_the_noise_is_adopted_and_the_right_trial_wins(maximize: bool) -> None:
    sign = 1 if maximize else -1
    found = [
        conclude(drawn(n, [sign * mean for mean in (0.5, 0.55, 0.7, 0.6)]), maximize=maximize)
        for n in range(100)
    ]
    assert sum(row["change"] and row["winner"] == "trial 2" for row in found) >= 95
    assert all("Change: trial 2 reaches" in row["conclusion"] for row in found if row["change"])


def test_a_winner_inside_the_noise_is_called_a_tie() -> None:
    candidates = [
        Candidate("base", None, {}, (0.50, 0.52, 0.51)),
        Candidate("trial 4", 4, {}, (0.51, 0.53, 0.515)),
        Candidate("trial 7", 7, {}, (0.40, 0.41, 0.42)),
    ]
    found = conclude(candidates, maximize=True)
    assert found["winner"] == "trial 4" and not found["change"] and found["ties"] == ["base"]
    assert found["gain"]["word"] == "tie"
    needed = re.search(r"A tie: .* holds 0; about (\d+) seeds each would show", found["conclusion"])
    assert (
        needed is not None
        and int(needed[1]) == found["needed"] > 6
        and not worth_a_second_look(found, candidates)
    )
    assert found["noise"] == pytest.approx(0.01, abs=0.002)


def test_noise_is_that_of_the_best_and_of_what_ties_with_them() -> None:
    wild = Candidate("base", None, {}, (0.2, 0.5, 0.8, 0.3, 0.7))
    best = [
        Candidate("trial 1", 1, {}, (1.50, 1.51, 1.52)),
        Candidate("trial 2", 2, {}, (1.49, 1.50, 1.51)),
    ]
    found = conclude([wild, *best], maximize=True)
    assert found["change"] and found["ties"] == ["trial 2"]
    assert found["noise"] == pytest.approx(0.01) and found["reach"] == pytest.approx(
        2.776 * 2**0.5 * 0.01, rel=1e-3
    )


def test_what_does_not_come_to_its_end_is_no_winner_and_a_base_that_does_not_is_left() -> None:
    lost = Candidate("trial 1", 1, {}, (0.9, None, 0.9))
    base = Candidate("base", None, {}, (0.5, 0.51, 0.5))
    good = Candidate("trial 2", 2, {}, (0.7, 0.71, 0.7))
    assert conclude([base, lost, good], maximize=True)["winner"] == "trial 2"
    nothing = conclude([base, lost], maximize=True)
    assert not nothing["change"] and "no candidate" in nothing["conclusion"]
    rescued = conclude([Candidate("base", None, {}, (None, 0.5, 0.5)), good], maximize=True)
    assert rescued["change"] and "base does not come to its end" in rescued["conclusion"]


def test_the_base_and_the_best_different_trials_are_chosen() -> None:
    rates = [0.01, 0.2, 0.2, 0.1, 0.3]
    trials = tuple(
        Trial(n, {"SOLVER.BASE_LR": rate}, "complete", values=(n / 10,)) for n, rate in enumerate(rates)
    )
    history = History("s", (Objective("m", "maximize"),), SPACE, {"SOLVER.BASE_LR": 0.1}, trials)
    assert [c.name for c in choose(history, 2)] == ["base", "trial 4", "trial 2"]
    assert [c.name for c in choose(history, 9)] == ["base", "trial 4", "trial 2", "trial 0"]


# ---- again, after more trials or when the time is over


class Measures:
    """A pool of one slot in which a run's value is its rate and a little of its seed; its end is kept in its folder."""

    def __init__(self) -> None:
        self.jobs, self.running = list[Job](), list[Job]()

    def free(self) -> list[str]:
        return [] if self.running else ["slot"]

    def start(self, slot: str, job: Job) -> None:
        self.jobs.append(job)
        self.running.append(job)

    def events(self, timeout: float) -> list[Event]:
        job = self.running.pop()
        rate, seed = job.sampled.get("SOLVER.BASE_LR", 0.1), job.settings["RNG_SEED"]
        end = Outcome("complete", "", (self.value(rate, seed),), 10)
        Path(job.run).mkdir(parents=True)
        (Path(job.run) / "outcome.json").write_text(json.dumps(end.as_json()))
        return [Ended(job.number, end)]

    def value(self, rate: float, seed: int) -> float:
        return rate + 1e-3 * (seed % 7)

    def answer(self, number: int, reason: str | None) -> None:
        raise AssertionError("repeats do not ask")

    def stop(self, number: int) -> None:
        raise AssertionError("what has begun comes to its end")

    kill = stop

    def close(self) -> None: ...


class Varies(Measures):
    """Rates of 0.1 and below vary a lot, higher ones little."""

    def value(self, rate: float, seed: int) -> float:
        place = new_seeds(1, 6).index(seed)
        return rate + (0.05 * (-1, 1, 0, 0.2, -0.2, 0.1)[place] if rate <= 0.1 else 1e-4 * place)


def searched(*rates: float) -> History:
    """Trials at these rates; the later, the better the value that each was chosen for."""
    trials = tuple(
        Trial(n, {"SOLVER.BASE_LR": rate}, "complete", values=(n / 10,), seconds=30.0)
        for n, rate in enumerate(rates)
    )
    return History("s", (Objective("m", "maximize"),), SPACE, {"SOLVER.BASE_LR": 0.1}, trials)


def run(folder: Path, history: History, pool: Measures, *, finalists: int = 1, **options) -> dict:
    """As `detectune tune --confirm FINALISTS --seeds 3` does it."""
    chosen = with_earlier(
        choose(history, finalists),
        folder,
        read_confirmed(folder),
        seeds=new_seeds(1, options.get("seeds", 3)),
    )
    return confirm(
        folder, chosen, metric="m", maximize=True, study_seed=1, pool=pool, workers=1, log=lambda _: None,
        **{"seeds": 3, **options},
    )  # fmt: skip


@pytest.fixture
def folder(digits: Path) -> Path:
    place = digits.parent / "my study"
    place.mkdir()
    shutil.copy(digits, place / BASE)
    return place


def test_a_trial_that_came_later_and_is_the_best_is_named_and_confirmed_again(folder: Path) -> None:
    before, after = searched(0.2, 0.4), searched(0.2, 0.4, 0.3)
    found = run(folder, before, Measures())
    assert found["winner"] == "trial 1" and found["change"]
    assert newer_best(before, found) is None
    (folder / "trials.json").write_text(json.dumps(as_json(before)))
    assert write_judgement(folder)["conclusion"] == found["conclusion"]

    (folder / "trials.json").write_text(json.dumps(as_json(after)))
    verdict = write_judgement(folder)
    question = verdict["gates"][-1]
    command = f"detectune tune '{folder}' --confirm 1 --seeds 3"
    assert question["level"] == "WARN" and question["command"] == command
    assert "Trial 2 is the best now" in question["text"] and "run again (trial 1)" in question["text"]
    assert verdict["confirmed"]["newer"]["trial"] == 2

    pool = Measures()
    again = run(folder, after, pool)  # trial 1 is no longer among the best one, but ran with every seed
    assert [row["name"] for row in again["candidates"]] == ["base", "trial 2", "trial 1"]
    assert [job.sampled["SOLVER.BASE_LR"] for job in pool.jobs] == [0.3] * 3, "nothing else is trained again"
    assert again["winner"] == "trial 1", "an earlier winner is not forgotten for a luckier trial"
    assert write_judgement(folder)["conclusion"] == again["conclusion"]


def test_a_promising_tie_gets_as_many_seeds_again_and_nothing_else_does(folder: Path) -> None:
    history, pool = searched(0.05, 0.28), Varies()

    class AfterEleven(TimeLimit):
        def over(self) -> bool:
            return len(pool.jobs) >= 11

    found = run(folder, history, pool, finalists=2, limit=AfterEleven(folder, 6.0, 0.0, 30.0, ""))
    assert found["unfinished"] == {**found["unfinished"], "missing": 4, "total": 15}
    assert "4 of the 15 runs with new seeds are missing" in found["conclusion"]
    pool = Varies()
    found = run(folder, history, pool, finalists=2)
    assert len(pool.jobs) == 4, "what has ended is not run again"
    assert found["seeds"] == new_seeds(1, 3) and found["more_seeds"] == new_seeds(1, 6)[3:]
    assert [len(row["values"]) for row in found["candidates"]] == [6, 6, 3]
    assert found["change"] and found["winner"] == "trial 1" and "over 6 seeds" in found["conclusion"]
    assert found["gain"]["confidence"] == pytest.approx(1 - 0.05 / 4)


def test_of_earlier_candidates_those_stay_that_cost_nothing_or_have_won(folder: Path) -> None:
    before, after = searched(0.2, 0.05, 0.4), searched(0.2, 0.05, 0.4, 0.3)
    run(folder, before, Measures(), finalists=2)
    pool = Measures()
    found = run(folder, after, pool, seeds=4)
    assert [row["name"] for row in found["candidates"]] == ["base", "trial 3", "trial 2"], "trial 1 lost"
    assert len(pool.jobs) == 1 + 4 + 1


def test_no_run_begins_when_the_time_is_over_and_the_same_command_goes_on(folder: Path) -> None:
    history, pool = searched(0.2, 0.4), Measures()
    spent = TimeLimit(folder, 2.0, 120.0, 30.0, "--confirm 1 --seeds 3")
    found = run(folder, history, pool, limit=spent)
    assert pool.jobs == [] and found["unfinished"]["missing"] == found["unfinished"]["total"] == 6
    assert not found["change"] and found["winner"] is None
    assert "2 minutes are over, and 6 of the 6 runs with new seeds are missing" in found["conclusion"]
    # two minutes were over; six runs of half a minute take three more
    command = f"detectune tune '{folder}' --confirm 1 --seeds 3 --minutes 6"
    assert found["unfinished"]["command"] == command
    (folder / "trials.json").write_text(json.dumps(as_json(history)))
    verdict = write_judgement(folder)
    assert verdict["conclusion"] == found["conclusion"] and verdict["gates"][-1]["command"] == command

    class AfterTwo(TimeLimit):
        def over(self) -> bool:
            return len(pool.jobs) >= 2

    found = run(folder, history, pool, limit=AfterTwo(folder, 6.0, 120.0, 30.0, ""))
    assert len(pool.jobs) == 2 and found["unfinished"]["missing"] == 4
    assert seconds_in(folder / "confirm") >= 0 and (folder / "confirm/seconds.json").is_file()
    found = run(folder, history, pool, limit=TimeLimit(folder, 6.0, 120.0, 30.0, ""))
    assert len(pool.jobs) == 6 and "unfinished" not in found and found["change"]


def test_higher_rates_are_left_out_when_the_time_is_over(folder: Path) -> None:
    said, pool = [], Measures()

    class AfterSeven(TimeLimit):
        def over(self) -> bool:
            return len(pool.jobs) >= 7

    limit = AfterSeven(folder, 6.0, 0.0, 30.0, "")
    found = confirm(
        folder, choose(searched(0.2), 1), metric="m", maximize=True, seeds=3, study_seed=1, pool=pool, workers=1,
        log=said.append, factors=(2.0, 5.0), base_rate=0.1, limit=limit,
    )  # fmt: skip
    assert [row["factor"] for row in found["above"]] == [2.0] and found["change"]
    assert "1 of 2 runs at higher rates are missing. They go on with: detectune tune" in said[-1]
