"""What a study adds to a trial: `detectune tune` with N trials against N times a bare `detectune train`.

    python bench/study_overhead.py --output bench/results/study_overhead.json

Both run the same configuration (a classifier on digits whose training takes a moment), one trial at a time, in turn.
The overhead of a trial is the study's wall time from the first trial's start to the last one's end, by trial, less the
time that `train` takes inside a process that is already up; beside it stands what a bare `detectune train` costs, the
start of its process with it. The study's own start and its end, with the pages of all trials, are given apart; all of
it divided by the trials is what a trial costs beyond its training at the very most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

CONFIG = """\
MODEL: {TYPE: classifier, DEVICE: cpu}
CLASSIFIER: {LAYERS: [dense 16, relu, softmax 10]}
SOLVER: {LR_POLICY: cosine_decay, WARM_UP_ITERS: 0, MAX_ITER: 60}
TRAIN: {DATASETS: [digits_train], IMS_PER_BATCH: 20, EVAL_ITERS: 30, LOG_ITERS: 30}
TEST: {DATASETS: [digits_val], IMS_PER_BATCH: 500}
"""
INSIDE = """\
import sys, time
from pathlib import Path
import torch.utils.tensorboard, detectune.tuner.trial_program
from detectune.config.load import load_config
from detectune.engine.trainer import train
for n in range(int(sys.argv[2]) + 1):
    began = time.perf_counter()
    train(load_config("c.yaml"), output_dir=Path(sys.argv[1]) / str(n), log=lambda _: None)
    if n:  # the first also imports what is imported late
        print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    output = given.output.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("c.yaml").write_text(CONFIG)
        inside = [float(line) for line in run("-c", INSIDE, "inside", str(given.trials)).stdout.split()]
        bare = [timed("-m", "detectune", "train", "c.yaml", "--output", f"bare/{n}") for n in range(3)]
        study = timed(
            "-m", "detectune", "tune", "c.yaml", "--knobs", "SOLVER.BASE_LR", "--sampler", "sobol",
            "--trials", str(given.trials), "--output", "study",
        )  # fmt: skip
        trials = json.loads(Path("study/trials.json").read_text())["trials"]
        pages = len(list(Path("study").glob("trials/*/report.html")))
        for page in Path("study").glob("trials/*/report.html"):
            page.unlink()
        anew = timed("-m", "detectune", "report", "study")
        again = timed("-m", "detectune", "report", "study")  # the pages of trials are there
    assert all(trial["state"] == "complete" for trial in trials) and pages == given.trials
    # From start to start, and of the last to its end; the first waits for its worker program to come up.
    moments = [datetime.fromisoformat(trial["started"]).timestamp() for trial in trials]
    moments.append(datetime.fromisoformat(trials[-1]["ended"]).timestamp())
    turns = [after - before for before, after in itertools.pairwise(moments[1:])]
    plain = statistics.median(inside)
    result: dict[str, Any] = {
        "overhead_seconds_per_trial": round(statistics.median(turns) - plain, 3),
        "trial_in_study_seconds": [round(turn, 3) for turn in turns],
        "train_in_a_ready_process_seconds": [round(seconds, 3) for seconds in inside],
        "bare_train_command_seconds": [round(seconds, 3) for seconds in bare],
        "whole_study_seconds": round(study, 3),
        "start_and_end_of_the_study_seconds": round(study - sum(turns), 3),
        "page_of_a_trial_seconds": round((anew - again) / given.trials, 3),
        "all_overhead_by_trial_seconds": round(study / given.trials - plain, 3),
        "trials": given.trials,
        "command": f"python bench/study_overhead.py --trials {given.trials}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "note": given.note,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], check=True, text=True, capture_output=True)


def timed(*words: str) -> float:
    """Wall seconds of a Python program."""
    began = time.perf_counter()
    run(*words)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
