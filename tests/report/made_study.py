"""Study directories made up for tests: a known response, every kind of end, curves; no training.

AP falls with the square of the distance of the learning rate from 0.05 (decades), of the decay from 1e-4, and is a
little better with AdamW; MOMENTUM exists for SGD only; rates above 0.3 diverge.
"""

from __future__ import annotations

import json
import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

SPACE: list[dict[str, Any]] = [
    {"key": "SOLVER.BASE_LR", "type": "float", "low": 1e-4, "high": 1.0, "scale": "log", "role": "scientific"},
    {"key": "SOLVER.WEIGHT_DECAY", "type": "float", "low": 1e-6, "high": 1e-2, "scale": "log", "role": "nuisance"},
    {"key": "SOLVER.TYPE", "type": "choice", "choices": ["sgd", "adamw"], "role": "scientific"},
    {"key": "SOLVER.MOMENTUM", "type": "float", "low": 0.8, "high": 0.999, "scale": "one_minus_log",
     "role": "nuisance", "condition": {"SOLVER.TYPE": ["sgd"]}},
    {"key": "SOLVER.WARM_UP_ITERS", "type": "int", "low": 0, "high": 200, "scale": "linear", "role": "nuisance"},
]  # fmt: skip
EMPTY = dict.fromkeys(("low", "high", "choices", "condition")) | {"scale": "linear"}
BASE = {
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.TYPE": "sgd",
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WARM_UP_ITERS": 100,
}
STEPS, EVALUATIONS = 600, 12


def quality(params: dict[str, Any]) -> float:
    """AP at the end, without noise."""
    rate = math.log10(params["SOLVER.BASE_LR"] / 0.05)
    decay = math.log10(params["SOLVER.WEIGHT_DECAY"] / 1e-4)
    return max(0.01, 0.42 - 0.055 * rate**2 - 0.012 * decay**2 + 0.01 * (params["SOLVER.TYPE"] == "adamw"))


def draw_params(draws: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {
        "SOLVER.BASE_LR": float(f"{10 ** draws.uniform(-4, 0):.4g}"),
        "SOLVER.WEIGHT_DECAY": float(f"{10 ** draws.uniform(-6, -2):.4g}"),
        "SOLVER.TYPE": draws.choice(["sgd", "adamw"]),
        "SOLVER.WARM_UP_ITERS": draws.randrange(0, 201),
    }
    if params["SOLVER.TYPE"] == "sgd":
        params["SOLVER.MOMENTUM"] = float(f"{1 - 10 ** draws.uniform(-3, math.log10(0.2)):.4g}")
    return params


def write_run(folder: Path, curve: list[float], draws: random.Random, *, loss_at: float) -> None:
    """A run directory with its metrics alone, an evaluation every STEPS / EVALUATIONS iterations."""
    folder.mkdir(parents=True)
    every = STEPS // EVALUATIONS
    rows = []
    for i, value in enumerate(curve, start=1):
        for iteration in range((i - 1) * every + 10, i * every + 1, 10):
            loss = loss_at + 1.5 * math.exp(-3 * iteration / STEPS) * draws.uniform(0.9, 1.1)
            rows.append({"kind": "train", "iteration": iteration, "loss": loss, "lr": 0.01})
        rows.append({"kind": "evaluation", "iteration": i * every, "dataset": "shapes_val", "bbox/AP": value})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("SOLVER: {MAX_ITER: 600}\n")


def write_study(
    folder: Path,
    *,
    trials: int,
    seed: int = 0,
    workers: int = 2,
    latency: bool = False,
    running: bool = False,
) -> Path:
    """A study of `trials` trials; with `latency` a second objective; with `running` the last ones have not ended."""
    draws = random.Random(seed)
    folder.mkdir(parents=True)
    free = [datetime(2026, 3, 4, 5, 6, 7)] * workers
    finals: list[float] = []
    rows: list[dict[str, Any]] = []
    for number in range(trials):
        params = draw_params(draws)
        best = quality(params) + draws.gauss(0, 0.006)
        curve = [
            round(max(0.0, best * (1 - math.exp(-4 * i / EVALUATIONS)) + draws.gauss(0, 0.003)), 4)
            for i in range(1, EVALUATIONS + 1)
        ]
        state, reason, done, values = "complete", "", EVALUATIONS, [curve[-1]]
        if params["SOLVER.BASE_LR"] > 0.3:
            done = draws.randrange(0, 3)
            state, reason, values = "infeasible", f"the loss was inf at iteration {50 * done + 17}", None
        elif number % 29 == 11:
            done, state, values = 1, "failed", None
            reason = "OSError: [Errno 28] No space left on device: 'trials/<0011>/checkpoints'"
        elif number % 41 == 20:
            done, state, values = 7, "timed_out", None
            reason = "not done after 30 s"
        elif len(finals) >= 4 and curve[3] < 0.6 * sorted(finals)[len(finals) // 2]:
            done, state, values = 4, "pruned", None
            reason = f"{curve[3]} at iteration 200 is not among the best third of {len(finals)}"
        if running and number >= trials - workers - 1:
            state, reason, values = ("running" if number < trials - 1 else "waiting"), "", None
            done = 5 if state == "running" else 0
        if values:
            finals.append(values[0])
            if latency:
                values = [
                    values[0],
                    round(20 + 60 * params["SOLVER.WARM_UP_ITERS"] / 200 + 200 * values[0], 2),
                ]
        slot = min(range(workers), key=lambda w: free[w])
        seconds = 4 + 2.5 * done * draws.uniform(0.9, 1.2)
        start, end = free[slot], free[slot] + timedelta(seconds=seconds)
        free[slot] = end
        run = f"trials/{number:04d}"
        if state != "waiting":
            write_run(folder / run, curve[:done], draws, loss_at=1.2 - 2 * best)
        ended = state not in ("running", "waiting")
        rows.append(
            {
                "number": number, "params": params, "state": state, "reason": reason, "values": values,
                "steps": done * STEPS // EVALUATIONS, "worker": f"machine:{slot}" if state != "waiting" else None,
                "started": f"{start.isoformat()}Z" if state != "waiting" else None,
                "ended": f"{end.isoformat()}Z" if ended else None, "seconds": seconds if ended else None,
                "peak_memory": 700_000_000 + 1000 * number if ended else None,
                "run": run if state != "waiting" else "", "seed": number, "attempts": 2 if number == 5 else 1,
            }
        )  # fmt: skip
    objectives = [{"metric": "bbox/AP", "direction": "maximize"}]
    if latency:
        objectives.append({"metric": "milliseconds", "direction": "minimize"})
    content = {
        "format": 1,
        "name": "made up",
        "objectives": objectives,
        "space": [EMPTY | row for row in SPACE],
        "base": BASE,
        "trials": rows,
    }
    (folder / "trials.json").write_text(json.dumps(content))
    return folder
