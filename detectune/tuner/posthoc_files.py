"""What a study of inference knobs leaves in its folder: each setting, what mattered, the verdict, the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from detectune.config.nesting import nested
from detectune.config.tree import Config
from detectune.engine.class_thresholds import KEY as CLASS_THRESHOLDS
from detectune.engine.run_directory import output_errors, write_text
from detectune.tuner.history import History, Objective, Space, Trial, as_json
from detectune.tuner.importance import importances
from detectune.tuner.many_settings import Tried
from detectune.tuner.posthoc_verdict import thresholds
from detectune.tuner.spec import to_yaml

IMPORTANCE_FROM = 256  # settings drawn evenly from the space; more of them only cost time


def write_study(
    folder: Path,
    base: Config,
    verdict: Mapping[str, Any],
    tried: Sequence[Tried],
    *,
    name: str,
    metric: str,
    space: Space,
    seed: int,
) -> None:
    """Write `trials.json`, `importance.json`, `diff.yaml`, `best.yaml` and, last, `verdict.json`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would name every resampling
    history = history_of(base, tried, name=name, metric=metric, space=space)
    even = [trial for trial, one in zip(history.trials, tried, strict=True) if one.explored][:IMPORTANCE_FROM]
    importance = importances(replace(history, trials=tuple(even)), seed=seed)
    changes = {key: after for key, (_, after) in verdict["changes"].items()}
    taken = changes if verdict["decision"] == "adopt" else {}
    if least := thresholds(verdict):
        taken = {**taken, CLASS_THRESHOLDS: least}
    with output_errors(folder):
        write_text(folder / "trials.json", json.dumps(as_json(history)) + "\n")
        write_text(folder / "importance.json", json.dumps(importance, indent=1) + "\n")
        write_text(folder / "diff.yaml", to_yaml(nested(taken)) if taken else "{}\n")
        write_text(folder / "best.yaml", base.with_overrides(taken).to_yaml())
        write_text(folder / "verdict.json", json.dumps(plain(verdict), indent=1, allow_nan=False) + "\n")


def history_of(base: Config, tried: Sequence[Tried], *, name: str, metric: str, space: Space) -> History:
    """The settings as trials, for those who read studies. Values that contradict each other are infeasible."""
    flat = base.flat()
    trials = tuple(
        Trial(one.number, dict(one.values), "complete", values=(one.score,))
        if one.score == one.score
        else Trial(one.number, dict(one.values), "infeasible", "The values contradict each other.")
        for one in tried
    )
    objective = Objective(metric, "maximize")
    return History(name, (objective,), space, {key: flat[key] for key in space.keys}, trials)


def plain(value: Any) -> Any:
    """Containers for JSON; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
