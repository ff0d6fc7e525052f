"""kill -9 at random moments, then the same command again: the weights of an uninterrupted run, bit for bit.

A launcher imports torch once and forks a process for each run, which is trained, announced and killed like
any other.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCHER = """
import os, sys, time, traceback
sys.path.insert(0, sys.argv[1])
import torch
import torch.utils.tensorboard
torch.set_num_threads(1)
import tiny_engine
from pathlib import Path
from detectune.engine.hooks import Hook
from detectune.engine.trainer import train

class Patch:
    def setattr(self, module, name, value):
        setattr(module, name, value)

class Announce(Hook):
    def before_train(self, run):
        print(f"training {os.getpid()} from {run.iteration}", flush=True)
    def after_step(self, run):
        time.sleep(0.004)  # so that kills fall on every kind of moment, not all after the end

tiny_engine.install(Patch())
config = tiny_engine.tiny_config(
    SOLVER__MAX_ITER=160, TRAIN__SNAPSHOT_ITERS=3, TRAIN__EVAL_ITERS=10, SOLVER__EMA_DECAY=0.9,
    TRAIN__LOG_ITERS=4,
)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            train(config, output_dir=Path(line.strip()), hooks=[Announce()], log=lambda _: None)
        except BaseException:
            print(f"failed {traceback.format_exc()!r}", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
"""


@dataclass
class Launcher:
    process: subprocess.Popen[str]

    def start(self, run_dir: Path) -> tuple[int, int]:
        """Start a run; its process id and the iteration from which it goes on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{run_dir}\n")
        self.process.stdin.flush()
        words = self.line().split()
        assert words[0] == "training", words
        return int(words[1]), int(words[3])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    command = [sys.executable, "-c", LAUNCHER, str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Launcher(process)
    process.communicate(timeout=60)


def test_killed_at_any_moment_a_run_ends_with_the_same_weights(tmp_path: Path, launcher: Launcher) -> None:
    launcher.start(tmp_path / "whole")
    assert launcher.line() == "ended"
    moments = random.Random(0)
    outcomes: list[str] = []
    beginnings: list[int] = []
    while len(outcomes) < 10 and "ended" not in outcomes:
        pid, iteration = launcher.start(tmp_path / "killed")
        beginnings.append(iteration)
        time.sleep(moments.uniform(0.0, 0.2))
        with contextlib.suppress(ProcessLookupError):  # it may have ended in time
            os.kill(pid, signal.SIGKILL)
        outcomes.append(launcher.line())
    assert outcomes.count("killed") >= 3, "the moments were too late to kill anything"
    assert beginnings == sorted(beginnings) and beginnings[-1] > 0, "nothing was gone on with"
    launcher.start(tmp_path / "killed")
    assert launcher.line() == "ended"
    for name in ("model_final.safetensors", "checkpoints/best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
