"""The rungs of the MNIST ladder at full length, over seeds, into bench/results/mnist_ladder.json.

    python bench/mnist_ladder.py --rungs 1-4 --seeds 1 2 3 --runs runs/mnist_ladder

Whatever the result file already has is left out, and a run that was interrupted goes on where it stopped, so the same
command may be given again and again. Several may run at once with other rungs or seeds: the file is locked while it is
written. MNIST must be at hand (MNIST_DIR). Rung 8 is made of runs of rung 7. With --fast rungs 1 to 4 have our
schedule; the others have one of their own in any case.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detectune.cli.places import find_config
from detectune.lab.ladder import Length, Rung, choose_rungs, run_seed, summary

RESULTS = Path(__file__).resolve().parent / "results" / "mnist_ladder.json"
COMMAND = "python bench/mnist_ladder.py --rungs all --seeds 1 2 3"
NUM_TEST = 10_000


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rungs", default="1-4", help="1-4, 1,3,9 or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/mnist_ladder"), help="where run directories go"
    )
    parser.add_argument("--fast", action="store_true", help="our schedule for rungs 1 to 4")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    length: Length = "fast" if options.fast else "full"
    for rung in choose_rungs(options.rungs):
        for seed in options.seeds:
            wanted = (rung.number, length, seed)
            if not any(key(row) == wanted for row in read(options.results)["runs"]):
                row = measure(rung, seed, options.runs / length, length=length)
                add(options.results, row)
                reached = f"{100 * row['test']:.2f} % in {row['seconds']:.0f} s"
                print(f"rung {rung.number} seed {seed}: {reached}", flush=True)


def key(row: dict[str, Any]) -> tuple[str, str, int]:
    """What tells a row from the others."""
    return row["rung"], row["length"], row["seed"]


def measure(rung: Rung, seed: int, runs: Path, *, length: Length) -> dict[str, Any]:
    """Train one network (or ensemble) of a rung, or go on with it; what it reached."""
    started = time.perf_counter()
    outcome, _, _ = run_seed(rung, find_config(rung.config), seed=seed, output=runs, length=length)
    return {
        "rung": rung.number,
        "length": length,
        "config": rung.config,
        **asdict(outcome),
        "seconds_of_last_part": time.perf_counter() - started,
        "load": os.getloadavg()[2],  # what else the machine did, over the last quarter of an hour
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }


def read(path: Path) -> dict[str, Any]:
    """The result file, or an empty one."""
    if not path.exists():
        return {"command": COMMAND, "runs": [], "rungs": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def add(path: Path, row: dict[str, Any]) -> None:
    """Add a row, and the means with it, under a lock: other processes may be adding theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_file = path.with_suffix(".lock")
    with open(lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = read(path)
        content["runs"] = sorted([*content["runs"], row], key=key)
        content["rungs"] = {
            f"{number} {length}": {"seeds": len(rows), **summary(rows, num_images=NUM_TEST)}
            for number, length in dict.fromkeys(key(r)[:2] for r in content["runs"])
            if (rows := [r for r in content["runs"] if key(r)[:2] == (number, length)])
        }
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
