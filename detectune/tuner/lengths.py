"""A configuration for a part of a full run: iterations, and with them everything that is counted in iterations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from detectune.config.tree import Config

EVALUATIONS = 8  # that a short run has at least: its curve is judged


def shortened(config: Config, part: float, *, searched: Collection[str] = ()) -> Config:
    """`config` for `part` of its iterations, 1 at most. Keys in `searched` stay as they are: a trial sets them.

    Epochs are whole, so a run counted in them has at least one.
    """
    solver, train = config.SOLVER, config.TRAIN
    if part >= 1:
        return config
    settings: dict[str, Any] = {}
    if solver.MAX_EPOCHS > 0:
        settings["SOLVER.MAX_EPOCHS"] = max(1, round(part * solver.MAX_EPOCHS))
        part = settings["SOLVER.MAX_EPOCHS"] / solver.MAX_EPOCHS
    else:
        settings["SOLVER.MAX_ITER"] = max(1, round(part * solver.MAX_ITER))
        every = max(1, settings["SOLVER.MAX_ITER"] // EVALUATIONS)
        settings["TRAIN.EVAL_ITERS"] = min(train.EVAL_ITERS or every, every)
        settings["TRAIN.LOG_ITERS"] = min(train.LOG_ITERS, every)
    settings["SOLVER.STEPS"] = sorted({round(part * step) for step in solver.STEPS})
    settings["SOLVER.STEP_SIZE"] = max(1, round(part * solver.STEP_SIZE))
    settings["SOLVER.WARM_UP_ITERS"] = round(part * solver.WARM_UP_ITERS)
    return config.with_overrides({key: value for key, value in settings.items() if key not in searched})
