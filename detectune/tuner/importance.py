"""Which knob matters, and how sure that is: a pure function of a history.

PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255; Optuna's) compares where a knob's values lie in the best trials
with where they lie in all: a knob that is spread alike in both does not matter for being among the best. Its
uncertainty comes from resampling the trials. Trials that were pruned or diverged count as worse than all complete
ones, failed and timed-out ones not at all. A knob that a condition switched off counts with the middle of its range.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from detectune.tuner.distributions import distribution_of, label
from detectune.tuner.history import Dimension, History, Trial

FORMAT = 1
LEAST_COMPLETE = 10  # ours: below it nine tenths of the trials are fewer than nine
LEAST_PER_KNOB = 3
TOP = 0.1  # the best tenth, as Optuna's default ...
TOP_TRIALS = 5  # ... but not fewer trials than this
RESAMPLINGS = 100
INTERVAL = (0.05, 0.95)
METHOD = "By how much a knob's values differ between the best trials and all (PED-ANOVA)"


def importances(history: History, *, seed: int = 0, resamplings: int = RESAMPLINGS) -> dict[str, Any]:
    """What `importance.json` holds: for each objective every knob's share with its interval, largest first.

    `note` says why there is nothing, where there are too few trials for an answer.
    """
    content: dict[str, Any] = {"format": FORMAT, "method": METHOD, "note": "", "objectives": []}
    complete = [trial for trial in history.complete if trial.values is not None]
    needed = max(LEAST_COMPLETE, LEAST_PER_KNOB * len(history.space))
    if len(complete) < needed:
        content["note"] = f"{len(complete)} complete trials are too few to tell; {needed} are needed."
        return content
    if len(history.space) < 2:
        content["note"] = "One knob was searched, so all of the variation is its own."
        return content
    for index, objective in enumerate(history.objectives):
        trials = _ranked(history, index)
        shares = _shares(history, trials)
        draws = np.random.default_rng([seed, index])
        again = [
            _shares(history, [trials[i] for i in draws.integers(0, len(trials), len(trials))])
            for _ in range(resamplings)
        ]
        low, high = np.quantile([[s[k] for k in history.space.keys] for s in again], INTERVAL, axis=0)
        rows: list[dict[str, Any]] = [
            {
                "key": key,
                "importance": round(shares[key], 4),
                "low": round(min(float(low[k]), shares[key]), 4),
                "high": round(max(float(high[k]), shares[key]), 4),
            }
            for k, key in enumerate(history.space.keys)
        ]
        rows.sort(key=lambda row: -row["importance"])
        content["objectives"].append({"metric": objective.metric, "trials": len(trials), "knobs": rows})
    return content


def _ranked(history: History, index: int) -> list[FrozenTrial]:
    """Complete trials with their value, lower being better, and what was given up with one that is worse than all."""
    sign = -1.0 if history.objectives[index].direction == "maximize" else 1.0
    complete = [(trial, sign * trial.values[index]) for trial in history.complete if trial.values is not None]
    values = [value for _, value in complete]
    worse = max(values) + (max(values) - min(values) or 1.0)
    given_up = [(trial, worse) for trial in history.ended("pruned", "infeasible")]
    distributions = {d.key: distribution_of(d) for d in history.space}
    return [
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            params={d.key: _parameter(d, trial) for d in history.space},
            distributions=distributions,
            value=value,
        )
        for trial, value in complete + given_up
    ]


def _parameter(dimension: Dimension, trial: Trial) -> Any:
    """The trial's value as Optuna's parameter; of a knob that does not exist in it the middle of the range."""
    if dimension.choices is not None:
        return label(trial.params.get(dimension.key, dimension.choices[0]))
    kind = distribution_of(dimension)
    assert isinstance(kind, IntDistribution | FloatDistribution)
    low, high = kind.low, kind.high  # of 1 - value where that is what Optuna sees, and rounded as there
    value = trial.params.get(dimension.key)
    if value is None:
        value = (low * high) ** 0.5 if dimension.scale != "linear" and low > 0 else (low + high) / 2
    elif dimension.scale == "one_minus_log":
        value = 1 - value
    value = min(max(value, low), high)
    return round(value) if dimension.type == "int" else value


def _shares(history: History, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Knob -> share, together 1."""
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.add_trials(trials)
    top = min(max(TOP, TOP_TRIALS / len(trials)), 0.5)
    with warnings.catch_warnings(action="ignore"):  # that a resampling can be odd is the point of it
        evaluator = PedAnovaImportanceEvaluator(target_quantile=top)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    total = sum(found.values())
    return {
        key: found.get(key, 0.0) / total if total > 0 else 1 / len(history.space)
        for key in history.space.keys
    }
