"""24 trials around the demo's configuration of the shapes detector: do they beat it by more than the noise, or not?

    python bench/rounds_shapes.py --folder /tmp/rounds_shapes --output bench/results/rounds_shapes.json
    python bench/rounds_shapes.py --folder /tmp/tiny --output /tmp/tiny.json --quick     # few tiny steps, to try it

Three rounds of trials of a part of the demo's run, the best again with new seeds, the winner and the demo's own
configuration at full length over seeds. Either answer is a result. The same command goes on.
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

from alternation import minutes_of_calls

KNOBS = "SOLVER.BASE_LR,SOLVER.WEIGHT_DECAY,TRAIN.RPN_BATCH_SIZE_PER_IM"
QUICK = (
    "SOLVER.MAX_ITER=24", "SOLVER.WARM_UP_ITERS=2", "SOLVER.PRECISION=fp32", "TRAIN.IMS_PER_BATCH=2",
    "TRAIN.SCALES=[64]", "TEST.SCALE=64", "MODEL.MASK_ON=False", "TEST.DETECTIONS_PER_IM=10",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--short", type=float, default=0.34)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    words = [
        "tune", "getting_started/shapes", "--knobs", KNOBS, "--rounds", "3", "--trials", str(given.trials),
        "--short", str(given.short), "--confirm", "2", "--seeds", str(given.seeds), "--workers", str(given.workers),
        "--output", str(given.folder), *(QUICK if given.quick else ()),
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "detectune", *words], check=True)
    verdict = json.loads((given.folder / "verdict.json").read_text())
    confirmed = verdict["confirmed"]
    result = {
        "command": " ".join(["detectune", *words]).replace(str(given.folder), "FOLDER"),
        "minutes_of_calls": minutes_of_calls(given.folder, began),
        "conclusion": verdict["conclusion"],
        "change": verdict["winner"] is not None,
        "winner": verdict["winner"],
        "confirmed": confirmed,
        "gates": [[gate["name"], gate["level"], gate["text"]] for gate in verdict["gates"]],
        "changes": [change["text"] for part in verdict["rounds"] for change in part["changes"]],
        "ends": verdict["ends"],
        "cost": verdict["cost"],
        "load": os.getloadavg()[2],
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    assert sum(verdict["ends"].values()) == given.trials, verdict["ends"]
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(verdict["conclusion"])


if __name__ == "__main__":
    main()
