"""What a study leaves for its reader: `verdict.json`, `best.yaml`, and the counts that a table shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectune.tuner.history import ENDS, History, Trial

FORMAT = 1


def make_verdict(history: History) -> dict[str, Any]:
    """Best configuration and value, every trial's end with its reason, the cost; of several objectives the front."""
    best = history.best()
    ended = history.ended(*ENDS)
    verdict: dict[str, Any] = {
        "format": FORMAT,
        "name": history.name,
        "objectives": [
            {"metric": objective.metric, "direction": objective.direction} for objective in history.objectives
        ],
        "best": None if best is None else describe_trial(best, history),
        "ends": count_ends(history),
        "trials": [
            {
                "number": trial.number,
                "end": trial.state,
                "reason": trial.reason,
                "values": _values(trial, history),
            }
            for trial in history.trials
        ],
        "cost": {
            "trials": len(ended),
            "attempts": sum(trial.attempts for trial in history.trials),
            "steps": sum(trial.steps or 0 for trial in ended),
            "trial_seconds": round(sum(trial.seconds or 0.0 for trial in ended), 1),
        },
    }
    if len(history.objectives) > 1:
        verdict["pareto_front"] = [describe_trial(trial, history) for trial in history.pareto_front()]
    return verdict


def describe_trial(trial: Trial, history: History) -> dict[str, Any]:
    """A trial as the verdict names it."""
    return {
        "number": trial.number,
        "values": _values(trial, history),
        "params": dict(trial.params),
        "run": trial.run,
        "seed": trial.seed,
    }


def count_ends(history: History) -> dict[str, int]:
    """State -> how many trials are in it, without those that none is in."""
    counts = {state: len(history.ended(state)) for state in (*ENDS, "running", "waiting")}
    return {state: count for state, count in counts.items() if count}


def _values(trial: Trial, history: History) -> Mapping[str, float] | None:
    if trial.values is None:
        return None
    return {o.metric: v for o, v in zip(history.objectives, trial.values, strict=True)}
