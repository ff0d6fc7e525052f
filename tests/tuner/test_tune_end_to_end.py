"""`detectune tune` from the command line: four trials of a tiny detector, then the same command again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detectune.config.load import load_config
from detectune.tuner.history import from_json


def tune(*words: str, code: int = 0) -> str:
    """What `detectune tune` prints; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "detectune", "tune", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_accounts_for_every_trial_and_goes_on(tiny: Path) -> None:
    words = (str(tiny), "--knobs", "SOLVER.BASE_LR,SOLVER.MOMENTUM", "--output", "study", "--workers", "2")
    tune(*words, "--trials", "3", "--objective", "bbox/AP")
    folder = tiny.parent / "study"
    first = from_json(json.loads((folder / "trials.json").read_text()))
    assert [trial.state for trial in first.trials] == ["complete"] * 3
    run_files = [folder / trial.run / "checkpoints" / "iter_0000002.pt" for trial in first.trials]
    stamps = [file.stat().st_mtime_ns for file in run_files]
    said = tune(*words, "--trials", "4", "--objective", "bbox/AP")
    assert "3 trials have ended" in said
    assert [file.stat().st_mtime_ns for file in run_files] == stamps, "a finished trial was run again"
    history = from_json(json.loads((folder / "trials.json").read_text()))
    assert history.trials[:3] == first.trials and len(history.trials) == 4
    for trial in history.trials:
        config = load_config(folder / trial.run / "config.yaml")
        flat = config.flat()
        assert {key: flat[key] for key in trial.params} == trial.params
        arrived = json.loads((folder / trial.run / "arrived.json").read_text())
        assert {key: found["how"] for key, found in arrived.items()} == dict.fromkeys(trial.params, "object")
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["ends"] == {"complete": 4} and verdict["best"]["params"]
    best = load_config(folder / "best.yaml").flat()
    assert {key: best[key] for key in verdict["best"]["params"]} == verdict["best"]["params"]
