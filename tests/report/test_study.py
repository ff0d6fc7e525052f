"""Reading a study directory: every kind of end, damaged files, and the numbers behind its page."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from made_study import write_study

from detectune.errors import UserError
from detectune.report.study import Objective, StudyTrial, is_study, read_study
from detectune.report.study_statistics import best_of_n, best_so_far, pareto_front, value_limits


def a_trial(number: int, *values: float) -> StudyTrial:
    return StudyTrial(
        number=number, params={}, state="complete" if values else "failed", reason="", values=list(values) or None,
        steps=1, worker="w", started=None, ended=None, seconds=1.0, peak_memory=None, run="", seed=0, attempts=1,
    )  # fmt: skip


def test_every_trial_and_its_end_is_read(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "s", trials=60))
    written = json.loads((tmp_path / "s" / "trials.json").read_text())["trials"]
    assert [trial.number for trial in study.trials] == list(range(60))
    assert set(study.counts) == {"complete", "pruned", "infeasible", "failed", "timed_out"}
    assert [trial.reason for trial in study.trials] == [row["reason"] for row in written]
    best = study.best
    assert best is not None and best.values == [max(t.values[0] for t in study.complete if t.values)]
    assert best.curve[-1] == (600.0, best.values[0]) and len(best.loss) == 60


def test_a_running_study_has_trials_without_an_end(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "s", trials=8, running=True))
    assert study.counts["running"] == 2 and study.counts["waiting"] == 1
    running = next(trial for trial in study.trials if trial.state == "running")
    assert running.values is None and running.last == running.curve[-1][1] and running.ended is None


def test_damage_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=4)
    (folder / "trials" / "0002" / "metrics.jsonl").write_text('{"kind": "train", "iterat\n')
    (folder / "verdict.json").write_text("{")
    study = read_study(folder)
    assert len(study.trials) == 4 and study.trials[2].curve == [] and study.verdict == {}
    assert any("0002/metrics.jsonl" in problem for problem in study.problems)
    assert any("verdict.json" in problem for problem in study.problems)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no trials.json"),
        ("{", "cannot be read as a study"),
        ('{"objectives": [], "space": [], "trials": []}', "no objective"),
        (
            '{"objectives": [{"metric": "a"}], "space": [], "trials": [{"number": 0, "state": "odd"}]}',
            "state odd",
        ),
    ],
)
def test_what_is_no_study_is_a_mistake(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "trials.json").write_text(content)
    assert is_study(tmp_path) == (content is not None)
    with pytest.raises(UserError, match=said):
        read_study(tmp_path)


@pytest.mark.parametrize("maximize", [True, False])
def test_best_of_n_equals_the_bootstrap(maximize: bool) -> None:
    """Against 4000 real resamplings: the quantiles lie at the same values, a step of the sorted values aside."""
    draws = random.Random(0)
    values = [draws.gauss(0, 1) for _ in range(12)] + [None, None]
    rows = dict(best_of_n(values, maximize=maximize))
    assert list(rows) == list(range(1, 15))
    worst = float("-inf") if maximize else float("inf")
    known = [worst if v is None else v for v in values]
    ranks = sorted(known, reverse=not maximize)  # worst first
    for n in (1, 3, 9):
        bests = [(max if maximize else min)(draws.choices(known, k=n)) for _ in range(4000)]
        bests.sort(reverse=not maximize)
        got = rows[n] if maximize else rows[n][::-1]
        for q, found in zip((0.1, 0.5, 0.9), got, strict=True):
            sampled = bests[int(q * 4000)]
            assert abs(ranks.index(worst if found is None else found) - ranks.index(sampled)) <= 1


def test_more_draws_are_never_worse() -> None:
    rows = best_of_n([0.1, 0.5, None, 0.3], maximize=True)
    assert rows[0][1][0] is None and rows[-1][1] == [0.3, 0.5, 0.5]
    medians = [q[1] for _, q in rows if q[1] is not None]
    assert medians == sorted(medians)


def test_pareto_front_keeps_what_nothing_dominates() -> None:
    goals = [Objective("AP", True), Objective("ms", False)]
    trials = [
        a_trial(0, 0.5, 10),
        a_trial(1, 0.4, 5),
        a_trial(2, 0.4, 9),
        a_trial(3),
        a_trial(4, 0.5, 10),
        a_trial(5, 0.6, 30),
    ]
    assert [trial.number for trial in pareto_front(trials, goals)] == [5, 0, 4, 1]


def test_best_so_far_and_limits(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "s", trials=40))
    steps = best_so_far(study)
    assert steps == sorted(steps) and [v for _, v in steps] == sorted(v for _, v in steps)
    assert study.best is not None and steps[-1] == (study.best.number, study.best.values[0])
    low, high = value_limits(study)
    values = sorted(trial.values[0] for trial in study.complete)
    assert low < values[len(values) // 2] < values[-1] < high
