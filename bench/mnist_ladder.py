"""The rungs of the MNIST ladder at full length, over seeds, into bench/results/mnist_ladder.json.

    python bench/mnist_ladder.py --rungs 1 2 3 4 --seeds 1 2 3 --runs runs/ladder

Whatever the result file already has is left out, and a run that was interrupted goes on where it stopped, so the same
command may be given again and again. Several may run at once with other rungs or seeds. MNIST must be at hand
(MNIST_DIR).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detectune.cli.places import find_config
from detectune.config.load import load_config
from detectune.engine.trainer import train
from detectune.lab.ladder import RUNGS, Rung, read_outcome, read_rows

RESULTS = Path(__file__).resolve().parent / "results" / "mnist_ladder.json"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [rung.number for rung in RUNGS]
    parser.add_argument("--rungs", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/mnist_ladder"), help="where run directories go"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for number in options.rungs:
        rung = next(rung for rung in RUNGS if rung.number == number)
        for seed in options.seeds:
            if not any(
                row["rung"] == number and row["seed"] == seed for row in read(options.results)["runs"]
            ):
                row = measure(rung, seed, options.runs / f"rung_{number}_seed_{seed}")
                add(options.results, row)
                print(
                    f"rung {number} seed {seed}: {100 * row['test']:.2f} % in {row['seconds']:.0f} s",
                    flush=True,
                )


def measure(rung: Rung, seed: int, run_dir: Path) -> dict[str, Any]:
    """Train one rung with one seed, or go on with it; what it reached."""
    config = load_config(find_config(rung.config), {"RNG_SEED": seed, "MODEL.DEVICE": "cpu"})
    started = time.perf_counter()
    result = train(config, output_dir=run_dir, log=lambda _: None)
    validation, test = config.TEST.DATASETS
    outcome = read_outcome(read_rows(run_dir), validation=validation, test=test, seed=seed)
    return {
        "rung": rung.number,
        "config": rung.config,
        **asdict(outcome),
        "iterations": result.iterations,
        "seconds": time.perf_counter() - started,  # of the last part, if it was interrupted
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }


def read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"command": "python bench/mnist_ladder.py --rungs 1 2 3 4 --seeds 1 2 3", "runs": []}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def add(path: Path, row: dict[str, Any]) -> None:
    """Add a row under a lock: other processes may be adding theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = read(path)
        content["runs"] = sorted([*content["runs"], row], key=lambda r: (r["rung"], r["seed"]))
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
