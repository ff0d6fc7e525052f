"""The ladder's rungs from a deliberately bad learning rate: does `tune --rounds 3` come back to the ladder, unaided?

    python bench/rounds_mnist.py --rung 1 --seed 1 --folder FOLDER      # three seeds; under 30 minutes each
    python bench/rounds_mnist.py --rung 4 --seed 1 --folder FOLDER --short 0.05     # three hours
    python bench/rounds_mnist.py --rung 1 --seed 1 --folder FOLDER --quick --trials 14          # to try it

The configuration is the rung's with a hundredth of its rate; nothing else is given away: the knobs are the rate, the
momentum, the decay and whether the rate falls, in ranges of their own. What the winner reaches at full length is
measured as the ladder is: accuracy on the test images at the epoch that was best on the validation images. The same
command goes on where it was interrupted. 42 trials, 12 runs of the confirmation and 6 at full length are 60 trainings;
66 where a tie gets a second look.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from alternation import minutes_of_calls
from detectune.cli.places import find_config
from detectune.lab.ladder import ACCURACY, RUNGS, Rung, rung_config

RESULTS = Path(__file__).resolve().parent / "results"
BAD = 0.01  # of the rung's learning rate
KNOBS = """\
knobs:
  SOLVER.BASE_LR:
  SOLVER.MOMENTUM:
  SOLVER.WEIGHT_DECAY:
  SOLVER.LR_POLICY: {choices: [step, cosine_decay]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rung", choices=["1", "4"], required=True)
    parser.add_argument("--seed", type=int, default=1, help="of the study")
    parser.add_argument("--folder", type=Path, required=True, help="where the study is made")
    parser.add_argument("--trials", type=int, default=42)
    parser.add_argument("--short", type=float, default=0.1, help="length of a trial, of the rung's 60 epochs")
    parser.add_argument("--seeds", type=int, default=3, help="of the finalists and the winner")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--population", type=int, default=0, help="trials in one program; needs --population of tune"
    )
    parser.add_argument("--quick", action="store_true", help="few steps on few images, to try this script")
    parser.add_argument("--results", type=Path, default=RESULTS / "rounds_mnist.json")
    given = parser.parse_args()
    rung = next(rung for rung in RUNGS if rung.number == given.rung)
    words = prepare(rung, given.folder, given)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "detectune", *words], check=True)
    row = measure(rung, given.folder) | {
        "rung": rung.number,
        "seed": given.seed,
        "length": "quick" if given.quick else "full",
        "minutes_of_calls": minutes_of_calls(given.folder, began),
        "trials": given.trials,
        "command": " ".join(["detectune", *words]).replace(str(given.folder), "FOLDER"),
        "load": os.getloadavg()[2],
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(row, indent=1))
    if not given.quick:
        add(given.results, row)


def prepare(rung: Rung, folder: Path, given: argparse.Namespace) -> list[str]:
    """Write the configuration and the study file; the words of the command."""
    folder.mkdir(parents=True, exist_ok=True)
    config = rung_config(find_config(rung.config), seed=1, length="quick" if given.quick else "full")
    config = config.with_overrides({"SOLVER.BASE_LR": BAD * config.SOLVER.BASE_LR})
    (folder / "bad.yaml").write_text(config.to_yaml())
    (folder / "study.yaml").write_text(f"config: bad.yaml\nname: rung {rung.number}\n{KNOBS}")
    words: list[object] = [
        "tune", folder / "study.yaml", "--rounds", 3, "--trials", given.trials, "--short", given.short,
        "--confirm", 3, "--seeds", given.seeds, "--seed", given.seed, "--workers", given.workers,
        "--output", folder / "rounds",
    ]  # fmt: skip
    if given.population:
        words += ["--population", given.population]
    return [str(word) for word in words]


def measure(rung: Rung, folder: Path) -> dict[str, Any]:
    """What the study concluded, and what its winner reaches on the test images over its seeds at full length."""
    study = folder / "rounds"
    verdict = json.loads((study / "verdict.json").read_text())
    row: dict[str, Any] = {
        "conclusion": verdict["conclusion"],
        "winner": None if verdict["winner"] is None else verdict["winner"]["params"],
        "changes": [change["text"] for part in verdict["rounds"] for change in part["changes"]],
        "trial_seconds": verdict["cost"]["trial_seconds"],
        "ladder": {"reported": rung.reported, "ours": ours(rung)},
        "test": None,
        "at_or_above": False,
    }
    confirmed = verdict["confirmed"]
    if verdict["winner"] is None or "short" not in confirmed:
        return row
    runs = study / "final" / "confirm" / confirmed["winner"].replace(" ", "_")
    tests = [100 * test_at_best(runs / str(seed)) for seed in confirmed["seeds"] + confirmed["more_seeds"]]
    mean = fmean(tests)
    row |= {"test": {"values": tests, "mean": mean, "sd": stdev(tests) if len(tests) > 1 else None}}
    wanted = [figure for figure in row["ladder"].values() if figure is not None]
    # As the source printed it, with two decimals.
    row["at_or_above"] = all(round(mean, 2) >= round(figure, 2) for figure in wanted)
    return row


def test_at_best(run: Path) -> float:
    """Accuracy on the test images after the epoch that was best on the validation images, the last of equals."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "evaluation"]
    validation, test = dict.fromkeys(row["dataset"] for row in rows)
    reached = {
        name: {r["iteration"]: r[ACCURACY] for r in rows if r["dataset"] == name}
        for name in (validation, test)
    }
    best = max(reached[validation], key=lambda iteration: (reached[validation][iteration], iteration))
    return float(reached[test][best])


def ours(rung: Rung) -> float | None:
    """What the ladder's own bench has measured for the rung, in percent, if it has."""
    file = RESULTS / "mnist_ladder.json"
    rungs = json.loads(file.read_text())["rungs"] if file.is_file() else {}
    found = rungs.get(f"{rung.number} full")
    return None if found is None else 100 * found["mean"]


def add(file: Path, row: dict[str, Any]) -> None:
    """Put a row into the result file, in the place of an earlier one of the same rung and seed."""
    rows = json.loads(file.read_text())["studies"] if file.is_file() else []
    rows = [other for other in rows if (other["rung"], other["seed"]) != (row["rung"], row["seed"])]
    rows = sorted([*rows, row], key=lambda other: (other["rung"], other["seed"]))
    content = {"command": "python bench/rounds_mnist.py --rung 1 --seed 1 --folder FOLDER", "studies": rows}
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
