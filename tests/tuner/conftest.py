"""A study in seconds: a small classifier on scikit-learn's digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside the tests


from detectune.tuner.history import History, from_json

DIGITS = """\
MODEL: {TYPE: classifier, DEVICE: cpu}
CLASSIFIER: {LAYERS: [dense 16, relu, softmax 10], INIT: he, LOSS: log_likelihood}
SOLVER: {BASE_LR: 0.1, LR_POLICY: cosine_decay, WARM_UP_ITERS: 0, MOMENTUM: 0.9, WEIGHT_DECAY: 0.0001, MAX_ITER: 60}
TRAIN: {DATASETS: [digits_train], IMS_PER_BATCH: 20, EVAL_ITERS: 30, SNAPSHOT_ITERS: 10, LOG_ITERS: 30,
        KEEP_BEST: false}
TEST: {DATASETS: [digits_val], IMS_PER_BATCH: 500}
"""

Tune = Callable[..., str]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """digits.yaml in an empty working directory."""
    (tmp_path / "digits.yaml").write_text(DIGITS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "digits.yaml"


@pytest.fixture
def command() -> Tune:
    """command("tune", "digits.yaml", ..., code=0): what the command line printed; it must end with `code`."""

    def run(*words: object, code: int = 0) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "detectune", *map(str, words)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def tune(command: Tune) -> Tune:
    """tune("digits.yaml", ..., code=0) is `detectune tune`."""
    return lambda *words, code=0: command("tune", *words, code=code)


@pytest.fixture
def history_of() -> Callable[[Path], History]:
    """history_of(folder) reads the study's trials.json."""
    return lambda folder: from_json(json.loads((folder / "trials.json").read_text()))


@pytest.fixture
def launcher() -> Iterator[Any]:
    """A `launching.Launcher`."""
    from launching import launched

    with launched() as launcher:
        yield launcher
