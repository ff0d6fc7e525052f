"""Every optimiser tuned with the same budget on the same network: which one should I choose?

Each goes through three stages, all at a constant learning rate, as the rate is what is studied:
*tuning*: the same number of quasi-random points over its own hyper-parameters, of which the learning rate always spans
three decades; one seed; the best is chosen by validation accuracy.
*rates*: the best point with other learning rates around it, `RATES_PER_DECADE` to a decade: how wide is the range that
is nearly as good?
*seeds*: the best point over several seeds: test accuracy and its spread, updates and seconds until 97 %.

A network trained is one line of `trainings.jsonl`; a line that is there is not computed again.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from detectune.config.tree import Config
from detectune.engine.environment import processor_name
from detectune.engine.run_directory import output_errors, write_text
from detectune.lab.member import Member, load_data

TARGET = 0.97
TOLERANCE = 0.002
RATES_PER_DECADE = 4


@dataclass(frozen=True)
class Dimension:
    """A key of the configuration and where it is looked for.

    `scale` is log, or one_minus_log for memories: 0.9 and 0.99 differ as 0.1 and 0.01 do. `member` says which of the
    key's numbers it is, where the value is a pair.
    """

    key: str
    low: float
    high: float
    scale: str = "log"
    member: int | None = None

    def value(self, fraction: float) -> float:
        """The value at `fraction`, 0..1, of the way from low to high."""
        low, high = (self.low, self.high) if self.scale == "log" else (1 - self.low, 1 - self.high)
        found: float = low * (high / low) ** fraction
        return found if self.scale == "log" else 1 - found


@dataclass(frozen=True)
class Optimiser:
    """A choice of SOLVER.OPTIMIZER with its own hyper-parameters. The first dimension is the learning rate."""

    name: str
    settings: Mapping[str, Any]
    space: tuple[Dimension, ...]


def _lr(low: float) -> Dimension:
    return Dimension("SOLVER.BASE_LR", low, 1000 * low)


MOMENTUM = Dimension("SOLVER.MOMENTUM", 0.8, 0.99, "one_minus_log")
BETA1 = Dimension("SOLVER.BETAS", 0.8, 0.99, "one_minus_log", 0)
BETA2 = Dimension("SOLVER.BETAS", 0.9, 0.999, "one_minus_log", 1)
EPS = Dimension("SOLVER.EPS", 1e-10, 1e-3)
DECAY = Dimension("SOLVER.WEIGHT_DECAY", 1e-4, 1.0)  # where it is part of the rule

OPTIMISERS = (
    Optimiser("gradient descent", {"SOLVER.OPTIMIZER": "sgd", "SOLVER.MOMENTUM": 0.0}, (_lr(0.01),)),
    Optimiser("momentum", {"SOLVER.OPTIMIZER": "sgd"}, (_lr(0.001), MOMENTUM)),
    Optimiser("nesterov", {"SOLVER.OPTIMIZER": "sgd", "SOLVER.NESTEROV": True}, (_lr(0.001), MOMENTUM)),
    Optimiser("adagrad", {"SOLVER.OPTIMIZER": "adagrad"}, (_lr(0.001), EPS)),
    Optimiser(
        "adadelta",
        {"SOLVER.OPTIMIZER": "adadelta"},
        (_lr(0.03), Dimension("SOLVER.RHO", 0.8, 0.99, "one_minus_log"), EPS),
    ),
    Optimiser(
        "rmsprop",
        {"SOLVER.OPTIMIZER": "rmsprop"},
        (_lr(1e-4), Dimension("SOLVER.ALPHA", 0.9, 0.999, "one_minus_log"), EPS),
    ),
    Optimiser("adam", {"SOLVER.OPTIMIZER": "adam"}, (_lr(1e-4), BETA1, BETA2, EPS)),
    Optimiser("adamw", {"SOLVER.OPTIMIZER": "adamw"}, (_lr(1e-4), BETA1, BETA2, EPS, DECAY)),
    Optimiser("nadam", {"SOLVER.OPTIMIZER": "nadam"}, (_lr(1e-4), BETA1, BETA2, EPS)),
    Optimiser("lion", {"SOLVER.OPTIMIZER": "lion"}, (_lr(1e-5), BETA1, BETA2, DECAY)),
    Optimiser("muon", {"SOLVER.OPTIMIZER": "muon"}, (_lr(1e-4), MOMENTUM, DECAY)),
)


@dataclass(frozen=True)
class Budget:
    """What every optimiser gets."""

    trials: int
    rates_each_side: int  # learning rates below and above the best one
    seeds: int
    epochs: int
    batch: int
    data: str  # mnist or digits


def budget_for(*, quick: bool, has_mnist: bool) -> Budget:
    """The full comparison takes five to ten minutes of one core, on MNIST if it is there; the quick one a minute."""
    if quick or not has_mnist:
        size = (4, 3, 2) if quick else (16, 5, 5)
        return Budget(*size, epochs=8, batch=32, data="digits")
    return Budget(trials=8, rates_each_side=4, seeds=3, epochs=3, batch=50, data="mnist")


def network(budget: Budget) -> Config:
    """One hidden layer of 100 units at a constant rate, as on the ladder's first rung, but with ReLU."""
    return Config().with_overrides(
        {
            "MODEL.TYPE": "classifier",
            "MODEL.DEVICE": "cpu",
            "CLASSIFIER.LAYERS": ["dense 100", "relu", "softmax 10"],
            "CLASSIFIER.INIT": "he",
            "SOLVER.LR_POLICY": "step",
            "SOLVER.STEP_SIZE": 10**9,
            "SOLVER.WARM_UP_ITERS": 0,
            "SOLVER.WEIGHT_DECAY": 0.0,
            "SOLVER.BIAS_LR_FACTOR": 1.0,
            "SOLVER.MAX_EPOCHS": budget.epochs,
            "TRAIN.DATASETS": [f"{budget.data}_train"],
            "TRAIN.IMS_PER_BATCH": budget.batch,
            "TEST.DATASETS": [f"{budget.data}_val", f"{budget.data}_test"],
            "TEST.IMS_PER_BATCH": 1000,
        }
    )


def points(optimiser: Optimiser, count: int) -> list[dict[str, Any]]:
    """`count` scrambled Sobol points of the optimiser's space, as overrides; the same in every run."""
    size = len(optimiser.space)
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    return [overrides_at(optimiser, row) for row in engine.draw(count, dtype=torch.float64).tolist()]


def overrides_at(optimiser: Optimiser, fractions: Sequence[float]) -> dict[str, Any]:
    """The configuration keys at a point of the unit cube."""
    values: dict[str, Any] = dict(optimiser.settings)
    for dimension, fraction in zip(optimiser.space, fractions, strict=True):
        value = float(f"{dimension.value(fraction):.4g}")
        if dimension.member is None:
            values[dimension.key] = value
        else:
            pair = list(values.get(dimension.key, (0.9, 0.999)))
            pair[dimension.member] = value
            values[dimension.key] = tuple(pair)
    return values


class Trainings:
    """The networks trained so far, in `trainings.jsonl`, and the data to train more."""

    def __init__(self, directory: Path, budget: Budget, *, log: Callable[[str], None]) -> None:
        self.file = directory / "trainings.jsonl"
        self.base, self.log = network(budget), log
        self.data, self.tests = load_data(self.base)
        self.validation, self.test = self.base.TEST.DATASETS
        with output_errors(self.file):
            directory.mkdir(parents=True, exist_ok=True)
            lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.known: dict[str, dict[str, Any]] = {}
        for line in lines:
            row = _complete_row(line)
            if row is not None:
                self.known[row["key"]] = row

    def train(
        self, overrides: Mapping[str, Any], *, seed: int, evaluations: int, label: str
    ) -> dict[str, Any]:
        """One network: its validation curve, its test accuracy at the end, what its updates cost.

        Args:
            evaluations: how often validation accuracy is measured, in equal steps to the end.
        """
        config = self.base.with_overrides({**overrides, "RNG_SEED": seed})
        key = json.dumps([sorted(config.diff().items()), evaluations], default=str)
        if key not in self.known:
            row: dict[str, Any] = {"key": key, "label": label, "overrides": dict(overrides), "seed": seed}
            row |= self._train(config, evaluations)
            with output_errors(self.file), open(self.file, "a") as file:
                file.write(json.dumps(row) + "\n")
            self.known[key] = row
            self.log(f"{label}: {100 * row['accuracy']:.2f} %")
        return self.known[key]

    def _train(self, config: Config, evaluations: int) -> dict[str, Any]:
        training = Member(config, data=self.data, tests=self.tests)
        curve: list[tuple[int, float]] = []
        for number in range(1, evaluations + 1):
            training.advance(training.max_iter * number // evaluations)
            if training.diverged_at is not None:
                break
            curve.append((training.iteration, training.evaluate(self.validation)["classification/accuracy"]))
        diverged = training.diverged_at is not None
        return {
            "accuracy": 0.0 if diverged else curve[-1][1],
            "test_accuracy": None if diverged else training.evaluate(self.test)["classification/accuracy"],
            "diverged_at": training.diverged_at,
            "curve": curve,
            "updates": training.max_iter,
            "seconds_per_update": training.seconds / max(1, training.iteration),
        }


def run_optimisers(directory: Path, budget: Budget, *, log: Callable[[str], None]) -> dict[str, Any]:
    """All optimisers; writes `optimisers.json` and returns what is in it."""
    trainings = Trainings(directory, budget, log=log)
    rows = [study(trainings, optimiser, budget) for optimiser in OPTIMISERS]
    images = len(trainings.tests[trainings.validation])
    result = {
        "data": trainings.data.source,
        "dataset": trainings.data.name,
        "budget": asdict(budget),
        "target": TARGET,
        "tolerance": tolerance_of(max(rate[1] for row in rows for rate in row["rates"]), images),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "processor": processor_name(),
        "rows": rows,
        "answer": answer(rows, images=len(trainings.tests[trainings.test])),
    }
    write_text(directory / "optimisers.json", json.dumps(result))
    return result


def answer(rows: Sequence[Mapping[str, Any]], *, images: int) -> str:
    """Which one to choose, in words that follow from the numbers of the table.

    The choice is the one that forgives most (widest range of good rates) among those that are as good as the best:
    its test accuracy less `tolerance_of` it, on `images` test images. Ties go to the fewest seconds an update.
    """
    trained = [row for row in rows if row["test_accuracy"] is not None]
    if not trained:
        return "Every optimiser diverged with every seed: the budget or the data must be wrong."
    best = max(trained, key=lambda row: row["test_accuracy"])
    error = tolerance_of(best["test_accuracy"], images)
    as_good = [row for row in trained if row["test_accuracy"] >= best["test_accuracy"] - error]
    choice = min(as_good, key=lambda row: (-row["width_decades"], row["seconds_per_update"]))
    names = ", ".join(row["optimiser"] for row in as_good if row is not choice)
    beside = f" {names} are as good within the error of {100 * error:.2f} points." if names else ""
    rate = choice["overrides"]["SOLVER.BASE_LR"]
    return (
        f"Choose {choice['optimiser']}: {100 * choice['test_accuracy']:.2f} % on unseen images, and "
        f"{choice['width_decades']:.2f} decades of learning rates around {rate:.2g} are about as good.{beside}"
    )


def study(trainings: Trainings, optimiser: Optimiser, budget: Budget) -> dict[str, Any]:
    """The three stages of one optimiser; a row of the table."""
    name = optimiser.name
    tried = [
        trainings.train(point, seed=1, evaluations=budget.epochs, label=f"{name}, trial {n}/{budget.trials}")
        for n, point in enumerate(points(optimiser, budget.trials), start=1)
    ]
    best = max(tried, key=lambda row: row["accuracy"])
    rates = [
        (lr, trainings.train(overrides, seed=1, evaluations=budget.epochs, label=f"{name}, rate {lr:.3g}"))
        for lr, overrides in rates_around(best["overrides"], budget.rates_each_side)
    ]
    by_rate = [(lr, row["accuracy"]) for lr, row in rates]
    chosen = max((row for _, row in rates), key=lambda row: row["accuracy"])
    images = len(trainings.tests[trainings.validation])
    width = width_in_decades(by_rate, tolerance=tolerance_of(chosen["accuracy"], images))
    runs = [
        trainings.train(chosen["overrides"], seed=seed, evaluations=20, label=f"{name}, seed {seed}")
        for seed in range(1, budget.seeds + 1)
    ]
    return {
        "optimiser": name,
        "overrides": chosen["overrides"],
        "at_border": at_border(optimiser, best["overrides"]),
        "tuning": [(row["overrides"], row["accuracy"]) for row in tried],
        "rates": by_rate,
        "width_decades": width,
        **summary(runs),
    }


def rates_around(overrides: Mapping[str, Any], each_side: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """(rate, overrides) with other learning rates, from low to high, the given one in their middle."""
    for step in range(-each_side, each_side + 1):
        lr = float(overrides["SOLVER.BASE_LR"]) * 10 ** (step / RATES_PER_DECADE)
        lr = float(f"{lr:.4g}")
        yield lr, {**overrides, "SOLVER.BASE_LR": lr}


def tolerance_of(accuracy: float, images: int) -> float:
    """0.2 points, or the standard error of the accuracy where that is more."""
    return max(TOLERANCE, math.sqrt(accuracy * (1 - accuracy) / images))


def width_in_decades(by_rate: Sequence[tuple[float, float]], *, tolerance: float) -> float:
    """How many decades of neighbouring rates, the best among them, are within `tolerance` of the best accuracy.

    A rate stands for the stretch halfway to its neighbours, on a logarithmic scale.
    """
    accuracies = [accuracy for _, accuracy in by_rate]
    best = accuracies.index(max(accuracies))
    good = [accuracy >= accuracies[best] - tolerance for accuracy in accuracies]
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(good) - 1 and good[high + 1]:
        high += 1
    return (high - low + 1) / RATES_PER_DECADE


def at_border(optimiser: Optimiser, overrides: Mapping[str, Any]) -> bool:
    """Whether the learning rate lies in the outer tenth of its range: then a better one may lie beyond."""
    rate = optimiser.space[0]
    place = math.log(overrides["SOLVER.BASE_LR"] / rate.low) / math.log(rate.high / rate.low)
    return not 0.1 <= place <= 0.9


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds. Updates and seconds are medians, None unless most seeds reached `TARGET`."""
    tests = [row["test_accuracy"] for row in runs if row["test_accuracy"] is not None]
    reached = [
        next((step for step, accuracy in row["curve"] if accuracy >= TARGET), math.inf) for row in runs
    ]
    steps = statistics.median(reached)
    cost = statistics.median(row["seconds_per_update"] for row in runs)
    return {
        "seeds": len(runs),
        "diverged": len(runs) - len(tests),
        "test_accuracy": statistics.fmean(tests) if tests else None,
        "test_accuracy_sd": statistics.stdev(tests) if len(tests) > 1 else None,
        "updates_to_target": int(steps) if math.isfinite(steps) else None,
        "seconds_to_target": steps * cost if math.isfinite(steps) else None,
        "seconds_per_update": cost,
        "curves": [row["curve"] for row in runs],
    }


def _complete_row(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None  # the line that a killed process did not finish
    return row
