"""Regret of the tuner's default strategy against plain random search and plain TPE, with the same budget of steps.

The tasks are surrogates (`regret_tasks.py`), sampler and pruners those of studies: `detectune` is `detectune tune` with
`--pruner asha`, `detectune, no pruner` is what it does without. A trial costs the
steps that it runs: one that is pruned or diverges costs less. At every point of the budget the incumbent is the
complete trial with the best noisy last score, as a study would choose it; its regret is what it lacks of the optimum
in its score without noise, in units of (optimum - median of random configurations).

The target of a task is the score that one random configuration in fifty reaches. A strategy is worse than random
beyond noise where its mean regret at the end exceeds random's by more than two standard errors of their difference.

    python bench/regret.py --seeds 60 --first-seed 40 --budget 40 \
        --output bench/results/regret.json --plot bench/results/regret.svg
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from detectune.tuner.samplers import make_pruner
from detectune.tuner.strategy import INFEASIBLE, StagedSampler, exploring
from regret_tasks import EVALUATIONS, FAMILIES, STEPS, Task, make_task

TARGET_QUANTILE = 0.98

Pruner = optuna.pruners.BasePruner
Path_ = list[
    tuple[int, float]
]  # (evaluations spent, final score of the incumbent) where the incumbent changed


def staged(task: Task, seed: int, trials: int, model: str) -> BaseSampler:
    explore = exploring(len(task.distributions), total=trials)
    return StagedSampler(task.distributions, seed=seed, explore=explore, model=model)


def asha() -> Pruner:
    return make_pruner("asha", first=1, last=EVALUATIONS)


STRATEGIES: dict[str, Callable[[Task, int, int], tuple[BaseSampler, Pruner]]] = {
    "random": lambda task, seed, n: (optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner()),
    "tpe": lambda task, seed, n: (optuna.samplers.TPESampler(seed=seed), optuna.pruners.NopPruner()),
    "detectune": lambda task, seed, n: (staged(task, seed, n, "auto"), asha()),
    "random+asha": lambda task, seed, n: (optuna.samplers.RandomSampler(seed=seed), asha()),
    "staged tpe+asha": lambda task, seed, n: (staged(task, seed, n, "tpe"), asha()),
    "detectune, no pruner": lambda task, seed, n: (staged(task, seed, n, "auto"), optuna.pruners.NopPruner()),
}
COMPARED = ("random", "tpe", "detectune")


def search(task: Task, sampler: BaseSampler, pruner: Pruner, *, seed: int, budget: int) -> tuple[Path_, int]:
    """(path of the incumbent, number of trials) of one study with `budget` evaluations to spend."""
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    spent, best = 0, -math.inf
    path: Path_ = []
    while spent < budget:
        trial = study.ask(task.distributions)
        curve = task.curve(trial.params, trial=1000 * seed + trial.number)
        stopped = False
        for step, score in enumerate(curve, start=1):
            spent += 1
            trial.report(float(score), step)
            if step < EVALUATIONS and trial.should_prune():
                stopped = True
                break
        if stopped:
            study.tell(trial, state=TrialState.PRUNED)
        elif len(curve) < EVALUATIONS:
            spent += 1  # the stretch in which it diverged
            trial.set_user_attr(INFEASIBLE, True)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, float(curve[-1]))
            if curve[-1] > best and spent <= budget:
                best = float(curve[-1])
                path.append((spent, task.final(trial.params)))
    return path, len(study.trials)


def measure(task: Task, strategy: str, *, seed: int, budget: int) -> dict[str, Any]:
    """Regret at each full trial's worth of budget, and the budget (in full trials) at which the target was reached."""
    began = time.process_time()
    sampler, pruner = STRATEGIES[strategy](task, seed, budget // EVALUATIONS)
    path, trials = search(task, sampler, pruner, seed=seed, budget=budget)
    finite = task.finals[np.isfinite(task.finals)]
    unit = task.optimum - float(np.median(finite))
    target = float(np.quantile(task.finals, TARGET_QUANTILE))
    regrets = []
    for spent in range(EVALUATIONS, budget + 1, EVALUATIONS):
        reached = [score for at, score in path if at <= spent]
        regrets.append(round(min(1.0, (task.optimum - reached[-1]) / unit) if reached else 1.0, 5))
    return {
        "seed": seed,
        "trials": trials,
        "regret": regrets,
        "target_at": next((at / EVALUATIONS for at, score in path if score >= target), None),
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per strategy: regret at the end, budget to the target (never reached counts as infinite), against random."""
    budget = len(runs["random"][0]["regret"])
    rows: dict[str, Any] = {}
    for name, found in runs.items():
        ends = [run["regret"][-1] for run in found]
        reached = [math.inf if run["target_at"] is None else run["target_at"] for run in found]
        others = [run["regret"][-1] for run in runs["random"]]
        error = math.sqrt((stdev(ends) ** 2 + stdev(others) ** 2) / len(ends))
        middle, random_middle = (
            median(reached),
            median(math.inf if run["target_at"] is None else run["target_at"] for run in runs["random"]),
        )
        rows[name] = {
            "mean_trials": round(fmean(run["trials"] for run in found), 1),
            "median_regret": round(median(ends), 5),
            "mean_regret": round(fmean(ends), 5),
            "standard_error": round(stdev(ends) / math.sqrt(len(ends)), 5),
            "worse_than_random": fmean(ends) - fmean(others) > 2 * error,
            "median_budget_to_target": None if math.isinf(middle) else middle,
            "part_of_random": round(middle / min(random_middle, budget), 3)
            if math.isfinite(middle)
            else None,
            "reached": sum(math.isfinite(value) for value in reached),
        }
    return rows


def by_twenties(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The part of random's budget in each block of twenty instances: how far twenty alone would have been luck."""
    found: dict[str, Any] = {}
    for first in range(0, len(runs["random"]), 20):
        block = {name: rows[first : first + 20] for name, rows in runs.items()}
        seeds = [row["seed"] for row in block["random"]]
        found[f"{seeds[0]}-{seeds[-1]}"] = {
            name: row["part_of_random"] for name, row in summarise(block).items()
        }
    return found


def plot(content: dict[str, Any], file: Path) -> None:
    """Median regret over the budget, with the quartiles, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(content["tasks"]), figsize=(4 * len(content["tasks"]), 3.4), squeeze=False
    )
    for panel, (name, runs) in zip(panels[0], content["tasks"].items(), strict=True):
        for strategy in [s for s in COMPARED if s in runs["runs"]]:
            regrets = np.array([run["regret"] for run in runs["runs"][strategy]])
            xs = np.arange(1, regrets.shape[1] + 1)
            low, middle, high = np.maximum(np.quantile(regrets, (0.25, 0.5, 0.75), axis=0), 1e-4)
            (line,) = panel.plot(xs, middle, label=strategy)
            panel.fill_between(xs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set(title=name, yscale="log", xlabel="budget, full trials")
    panels[0][0].set_ylabel("regret")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Regret of the tuner's default strategy.")
    parser.add_argument("--tasks", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--strategies", nargs="+", default=list(COMPARED), choices=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20, help="how many instances of each task")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=60, help="in full trials")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    content: dict[str, Any] = {
        "command": "python bench/regret.py " + " ".join(sys.argv[1:]),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {"optuna": optuna.__version__, "numpy": np.__version__},
        "budget": options.budget,
        "steps_of_a_full_trial": STEPS,
        "seeds": options.seeds,
        "first_seed": options.first_seed,
        "target": f"score of the best {1 - TARGET_QUANTILE:.0%} of random configurations",
        "tasks": {},
    }
    for name in options.tasks:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        tasks = [make_task(name, seed) for seed in seeds]
        runs: dict[str, list[dict[str, Any]]] = {}
        for strategy in options.strategies:
            runs[strategy] = [
                measure(task, strategy, seed=task.seed, budget=options.budget * EVALUATIONS) for task in tasks
            ]
            row = summarise(runs)[strategy]
            seconds = fmean(run["cpu_seconds"] for run in runs[strategy])
            print(f"{name:11s} {strategy:16s} {row} {seconds:.1f} s", flush=True)
        content["tasks"][name] = {"summary": summarise(runs), "runs": runs}
        if options.seeds > 20:
            content["tasks"][name]["part_of_random_by_twenties"] = by_twenties(runs)
        if options.output:
            options.output.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot:
        plot(content, options.plot)


if __name__ == "__main__":
    main()
