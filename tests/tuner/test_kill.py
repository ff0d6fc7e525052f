"""kill -9 of a whole study, or of parts of it, at random moments: nothing finished is run twice, nothing is lost."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Launcher, ends, kill_tree, stamp, wait_for

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
