"""Detectron's log lines, `json_stats: {...}`, for scripts that read them.

    train(config, hooks=[DetectronLog(log_iters=20)])

Losses are medians over a window of steps, as there; the names of losses and counters are ours.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from detectune.engine.hooks import Hook
from detectune.engine.recording import peak_memory_mb
from detectune.engine.running import Run

WINDOW = 20  # steps


class SmoothedValue:
    """A series of numbers: median and mean of the last `window`, and mean of all."""

    def __init__(self, window: int = WINDOW) -> None:
        self.recent: deque[float] = deque(maxlen=window)
        self.total = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.recent.append(value)
        self.total += value
        self.count += 1

    @property
    def median(self) -> float:
        return float(np.median(self.recent))

    @property
    def mean(self) -> float:
        return float(np.mean(self.recent))

    @property
    def overall_mean(self) -> float:
        return self.total / self.count


def json_stats_line(stats: Mapping[str, Any]) -> str:
    """Keys sorted, fractions as texts of six decimals."""
    texts = {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in stats.items()}
    return f"json_stats: {json.dumps(texts, sort_keys=True)}"


class DetectronLog(Hook):
    """A line every `log_iters` steps and one for the last."""

    def __init__(self, *, log_iters: int = WINDOW, log: Callable[[str], None] = print) -> None:
        self.log_iters, self.log = log_iters, log
        self.values: dict[str, SmoothedValue] = {}
        self.seconds = SmoothedValue()
        self.waiting: list[
            dict[str, torch.Tensor]
        ] = []  # still on the device: reading them would stop the step
        self.since = time.perf_counter()

    def before_step(self, run: Run) -> None:
        self.since = time.perf_counter()

    def after_step(self, run: Run) -> None:
        self.waiting.append(dict(run.outputs))
        self.seconds.add(time.perf_counter() - self.since)
        if run.iteration % self.log_iters and run.iteration != run.max_iter:
            return
        for outputs in self.waiting:
            for name, value in outputs.items():
                self.values.setdefault(name.removeprefix("stat_"), SmoothedValue()).add(float(value))
        self.waiting = []
        left = self.seconds.overall_mean * (run.max_iter - run.iteration)
        self.log(
            json_stats_line(
                {
                    "iter": run.iteration - 1,
                    "lr": float(run.solver.lr),
                    "time": self.seconds.mean,
                    "eta": str(timedelta(seconds=int(left))),
                    "mem": int(np.ceil(peak_memory_mb(run.compute.device))),
                    **{name: value.median for name, value in self.values.items()},
                }
            )
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": {name: (list(v.recent), v.total, v.count) for name, v in self.values.items()},
            "waiting": [{name: value.cpu() for name, value in row.items()} for row in self.waiting],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.waiting = list(state["waiting"])
        self.values = {}
        for name, (recent, total, count) in state["values"].items():
            value = self.values[name] = SmoothedValue()
            value.recent.extend(recent)
            value.total, value.count = total, count
