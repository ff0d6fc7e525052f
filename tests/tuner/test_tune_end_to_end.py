"""`detectune tune` from the command line, then the same command again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from detectune.config.load import load_config
from detectune.tuner.history import History


def test_a_study_accounts_for_every_trial_and_goes_on(
    digits: Path, tune: Callable[..., str], history_of: Callable[[Path], History]
) -> None:
    words = (digits, "--knobs", "SOLVER.BASE_LR,SOLVER.MOMENTUM", "--output", "study", "--workers", "2")
    tune(*words, "--trials", "3")
    folder = digits.parent / "study"
    first = history_of(folder)
    assert [trial.state for trial in first.trials] == ["complete"] * 3
    files = [folder / trial.run / "checkpoints" / "iter_0000060.pt" for trial in first.trials]
    stamps = [file.stat().st_mtime_ns for file in files]
    said = tune(*words, "--trials", "4")
    assert "3 trials have ended" in said
    assert [file.stat().st_mtime_ns for file in files] == stamps, "a finished trial was run again"
    history = history_of(folder)
    assert history.trials[:3] == first.trials and len(history.trials) == 4
    for trial in history.trials:
        flat = load_config(folder / trial.run / "config.yaml").flat()
        assert {key: flat[key] for key in trial.params} == trial.params
        arrived = json.loads((folder / trial.run / "arrived.json").read_text())
        assert {key: found["how"] for key, found in arrived.items()} == dict.fromkeys(trial.params, "object")
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["ends"] == {"complete": 4} and verdict["best"]["params"]
    best = load_config(folder / "best.yaml").flat()
    assert {key: best[key] for key in verdict["best"]["params"]} == verdict["best"]["params"]
