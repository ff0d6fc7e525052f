"""NUM_GPUS=2 from the command line, on the CPU: real processes, started and watched by torch's agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detectune.cli.processes import launches, speaks, with_processes_for_test
from detectune.config.load import load_config

SECONDS = 120  # far more than is needed: a hang ends with a failure


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "detectune", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DETECTUNE_NO_REEXEC": "1"},
    )


@pytest.mark.slow
def test_a_killed_process_ends_training_with_one_message_and_the_same_command_goes_on(tiny: Path) -> None:
    words = [
        "train",
        "tiny.yaml",
        "NUM_GPUS=2",
        "MODEL.DEVICE=cpu",
        "TRAIN.IMS_PER_BATCH=1",
        "TRAIN.SNAPSHOT_ITERS=2",
    ]
    process = command(*words, "SOLVER.MAX_ITER=100000")
    metrics, lock = Path("runs/tiny/metrics.jsonl"), Path("runs/tiny/.lock")
    give_up = time.monotonic() + SECONDS
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < give_up:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(int(lock.read_text()), signal.SIGKILL)  # the first process holds it
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.count("Process 0 was ended by the system with SIGKILL") == 1 and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.strip() and "Notice" not in line]) <= 2, err

    done = max(int(file.stem.partition("_")[2]) for file in Path("runs/tiny/checkpoints").glob("iter_*.pt"))
    process = command(*words, f"SOLVER.MAX_ITER={done + 2}")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert out.count("Run directory:") == 1 and out.count("tiny, 6 images") == 1
    assert f"at iteration {done} of {done + 2}" in out and "detectune infer tiny.yaml" in out


def test_who_starts_whom(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = load_config(tiny, {"NUM_GPUS": 2, "MODEL.DEVICE": "cpu"})
    assert launches(two) and not launches(load_config(tiny)) and speaks()
    assert with_processes_for_test(two) is two
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert with_processes_for_test(load_config(tiny, {"NUM_GPUS": 8})).NUM_GPUS == 1
    assert "NUM_GPUS=8, but this machine has 1 GPU" in capsys.readouterr().err
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert not launches(two) and not speaks()


def test_too_many_devices_end_with_two(tiny: Path, call, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert call("train", "tiny.yaml", "NUM_GPUS=4") == 2
    assert "NUM_GPUS=4, but this machine has no GPU" in capsys.readouterr().err
    assert not Path("runs").exists()
