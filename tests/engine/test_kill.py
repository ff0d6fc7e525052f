"""kill -9 at random moments, then the same command again: the weights of an uninterrupted run, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import tiny_engine
from detectune.engine.hooks import Hook
from detectune.engine.trainer import train

class Patch:
    def setattr(self, module, name, value):
        setattr(module, name, value)

class Announce(Hook):
    def before_train(self, run):
        print("training", flush=True)
    def after_step(self, run):
        time.sleep(0.004)  # so that kills fall on every kind of moment, not all after the end

tiny_engine.install(Patch())
config = tiny_engine.tiny_config(
    SOLVER__MAX_ITER=80, TRAIN__SNAPSHOT_ITERS=3, TRAIN__EVAL_ITERS=10, SOLVER__EMA_DECAY=0.9,
    TRAIN__LOG_ITERS=4,
)
train(config, output_dir=Path(sys.argv[2]), hooks=[Announce()])
print("finished", flush=True)
"""


def start(run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(run_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_until_training(process: subprocess.Popen[str]) -> str:
    """What the process said up to the moment at which it trains, or all if it never does."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == "training\n":
            break
    return said


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    output, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, output
    moments = random.Random(0)
    kills = 0
    for _ in range(5):
        process = start(tmp_path / "killed")
        said = run_until_training(process)
        time.sleep(moments.uniform(0.0, 0.35))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        assert "Traceback" not in said + rest, said + rest
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3, "the moments were too late to kill anything"
    last = start(tmp_path / "killed")
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0 and "finished" in output, output
    for name in ("model_final.safetensors", "checkpoints/best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
