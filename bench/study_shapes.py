"""24 trials on the shapes detector with two workers, killed in the middle, gone on with: every trial accounted for.

    python bench/study_shapes.py --folder /tmp/study_shapes --output bench/results/study_shapes.json

Trials are short (MAX_ITER), as what is shown is the book-keeping: the whole tree of processes is killed at random
moments, the same command is given again, and each trial must have ended once, with its values and its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KNOBS = "SOLVER.BASE_LR,SOLVER.WEIGHT_DECAY,TRAIN.RPN_BATCH_SIZE_PER_IM"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the study is made")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    command = [
        sys.executable, "-m", "detectune", "tune", "getting_started/shapes", "--knobs", KNOBS,
        "--trials", str(given.trials), "--workers", "2", "--output", str(given.folder),
        f"SOLVER.MAX_ITER={given.iterations}", f"TRAIN.EVAL_ITERS={given.iterations}",
        "TRAIN.SNAPSHOT_ITERS=3", "SOLVER.PRECISION=fp32", "TRAIN.IMS_PER_BATCH=2", "TRAIN.SCALES=[64]",
        "TEST.SCALE=64", "MODEL.MASK_ON=False", "TEST.DETECTIONS_PER_IM=10",
    ]  # fmt: skip
    moments, kills, began = random.Random(given.seed), [], time.monotonic()
    finished: dict[int, str] = {}
    again: list[int] = []
    # How many trials have ended before each kill, which then falls at a random moment.
    for target in sorted(moments.sample(range(given.trials - 2), given.kills)):
        process = subprocess.Popen(command, start_new_session=True)
        while len(ends(given.folder)) < target and process.poll() is None:
            time.sleep(0.2)
        time.sleep(moments.uniform(0.0, 10.0))
        kill_tree(process.pid)
        process.wait()
        again += changed(finished, ends(given.folder))
        finished = ends(given.folder)
        kills.append(
            {
                "seconds": round(time.monotonic() - began, 1),
                "killed": process.returncode == -signal.SIGKILL,
                "ended": len(finished),
                "running": running(given.folder),
            }
        )
    subprocess.run(command, check=True)
    again += changed(finished, ends(given.folder))
    result = account(given.folder, given.trials) | {
        "kills": kills,
        "finished_run_twice": again,
        "wall_seconds": round(time.monotonic() - began, 1),
        "command": " ".join(["detectune", *command[3:]]),
        "iterations_of_a_trial": given.iterations,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "note": given.note,
    }
    assert not again and len(result["trials"]) == given.trials and not result["unaccounted"], result
    assert all(kill["killed"] for kill in kills), f"the study had ended before it was killed: {kills}"
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "trials"}, indent=1))


def ends(folder: Path) -> dict[int, str]:
    """Trial -> how it ended and when that was written, from the file that the trial itself writes."""
    return {
        int(file.parent.name): f"{file.stat().st_mtime_ns} {file.read_text()}"
        for file in folder.glob("trials/*/outcome.json")
    }


def changed(before: dict[int, str], after: dict[int, str]) -> list[int]:
    """Trials that had ended and whose end is another now, or gone."""
    return [number for number, end in before.items() if after.get(number) != end]


def running(folder: Path) -> list[int]:
    """Numbers of the trials that the study believed to run."""
    if not (folder / "trials.json").exists():
        return []  # it was killed before it had begun
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    return [trial["number"] for trial in trials if trial["state"] == "running"]


def account(folder: Path, count: int) -> dict[str, Any]:
    """What became of every trial, from the study's own files."""
    study = json.loads((folder / "trials.json").read_text())
    verdict = json.loads((folder / "verdict.json").read_text())
    kept = ("number", "state", "reason", "values", "steps", "seconds", "attempts", "worker", "params")
    trials = [{key: trial[key] for key in kept} for trial in study["trials"]]
    open_ends = [trial["number"] for trial in trials if trial["state"] in ("running", "waiting")]
    return {
        "ends": verdict["ends"],
        "best": verdict["best"],
        "cost": verdict["cost"],
        "unaccounted": sorted(set(range(count)) - {t["number"] for t in trials}) + open_ends,
        "trials": trials,
    }


def kill_tree(pid: int) -> None:
    """kill -9 for a process and everything below it; all are stopped before the first dies."""
    everyone = [pid, *descendants(pid)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in [*everyone, *descendants(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, of in pairs if of == parent]
        found += children
        waiting += children
    return found


if __name__ == "__main__":
    main()
