"""kill -9 of a whole study, or of parts of it, at random moments: nothing finished is run twice, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Launcher, descendants, ends, kill_tree, stamp, wait_for

from detectune.tuner.history import History

KILLS = 20
TRIALS = 12


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc")
def test_twenty_kills_of_the_whole_tree_lose_nothing(
    digits: Path, launcher: Launcher, history_of: Callable[[Path], History]
) -> None:
    folder, whole = digits.parent / "study", digits.parent / "whole"
    began = time.monotonic()
    launcher.start(whole, workers=2, trials=TRIALS, sampler="sobol")
    assert launcher.line() == "ended 0"
    a_trial = (time.monotonic() - began) / TRIALS * 2
    moments, finished, outcomes = random.Random(0), dict[int, str](), list[str]()
    while len(outcomes) < KILLS and "ended 0" not in outcomes:
        before = stamp(folder)
        pid = launcher.start(folder, workers=2, trials=TRIALS, sampler="sobol")
        if moments.random() < 0.75:  # the others while it begins
            wait_for(lambda before=before: stamp(folder) != before)
        time.sleep(moments.uniform(0.0, 1.5 * a_trial))
        kill_tree(pid)
        outcomes.append(launcher.line())
        now = ends(folder)
        assert {number: now[number] for number in finished} == finished, "a finished trial was run again"
        finished = now
    assert outcomes.count("killed") >= 5, f"the moments were too late: {outcomes}"
    launcher.start(folder, workers=2, trials=TRIALS, sampler="sobol")
    assert launcher.line() == "ended 0"
    history, reference = history_of(folder), history_of(whole)
    assert [trial.number for trial in history.trials] == list(range(TRIALS))
    assert {trial.state for trial in history.trials} == {"complete"}
    # Exact resume: a trial that was killed and taken up ends with the value of one that was not.
    assert [(t.params, t.seed, t.values) for t in history.trials] == [
        (t.params, t.seed, t.values) for t in reference.trials
    ]
    assert any(trial.attempts > 1 for trial in history.trials), "no kill fell into a trial"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["ends"] == {"complete": TRIALS}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc")
@pytest.mark.parametrize("killed", ["worker and trial", "trial", "worker"])
def test_one_of_two_workers_is_killed_in_the_middle_of_a_trial(
    digits: Path, launcher: Launcher, history_of: Callable[[Path], History], killed: str
) -> None:
    """Its trial goes on from its checkpoint, the other worker's trials are not touched, and the study ends.

    A trial whose worker alone is killed comes to its end without it.
    """
    folder = digits.parent / "study"
    digits.write_text(digits.read_text().replace("MAX_ITER: 60", "MAX_ITER: 1500"))
    study = launcher.start(folder, workers=2, trials=4, sampler="sobol")
    wait_for(lambda: all(saved(folder, number) for number in (0, 1)))
    worker = children(study)[0]
    (trial,) = children(worker)
    number = next(n for n in (0, 1) if (folder / f"trials/{n:04d}/.lock").read_text() == str(trial))
    reached = saved(folder, number)
    for process in {"worker and trial": [trial, worker], "trial": [trial], "worker": [worker]}[killed]:
        os.kill(process, signal.SIGKILL)
    assert number not in ends(folder), "the moment was too late"
    assert launcher.line() == "ended 0"
    history = history_of(folder)
    assert [(t.number, t.state) for t in history.trials] == [(n, "complete") for n in range(4)]
    again = 1 if killed == "worker" else 2
    assert {t.number: t.attempts for t in history.trials} == dict.fromkeys(range(4), 1) | {number: again}
    said = (folder / f"trials/{number:04d}/log.txt").read_text()
    went_on = [
        int(line.split(" at iteration ")[1].split()[0])
        for line in said.splitlines()
        if "Going on from" in line
    ]
    assert len(went_on) == again - 1 and all(iteration >= reached for iteration in went_on)


def children(pid: int) -> list[int]:
    """Its worker programs, or its trial, oldest first."""
    return sorted(child for child in descendants(pid) if parent(child) == pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def saved(folder: Path, number: int) -> int:
    """The iteration of a trial's newest checkpoint; 0 if there is none."""
    files = (folder / f"trials/{number:04d}/checkpoints").glob("iter_*.pt")
    return max((int(file.stem.removeprefix("iter_")) for file in files), default=0)
