"""Surrogate tuning tasks: learning curves of configurations, computed in milliseconds instead of trained for hours.

Each task is a family: a seed draws where the good values lie, so that no search is lucky with a fixed centre.
A curve gives the score (higher is better) after each evaluation, with the noise of a run; `final` gives it at the end
without noise. A configuration that diverges has a curve that stops early; its final score is minus infinity.

quadratic   SGD with momentum on a noisy quadratic of 40 directions with eigenvalues 1..1/40, computed exactly
            (expected squares of position and velocity; the model of Zhang et al. 2019, "Which Algorithmic Choices
            Matter at Which Batch Sizes?"). Knobs: rate, momentum, warm-up, where the rate drops and by how much.
classifier  a power law towards a ceiling. The ceiling falls with the distance of rate/(1 - momentum), of
            decay x rate and of warm-up from their best; too high a rate diverges; too little decay overfits late.
detector    seven knobs: as above with two optimisers that want rates a factor 30 apart, two weak knobs and one
            that does nothing, a slow start at low rates that wins in the end (curves cross), and more noise.
dropout     two knobs that pull against each other along a narrow curved valley, one choice; smooth, little noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
from scipy.stats import qmc

from detectune.tuner.strategy import from_unit

Params = Mapping[str, float | str]
Distributions = dict[str, optuna.distributions.BaseDistribution]
EVALUATIONS = 16  # of a full trial; between two of them lie STEPS // EVALUATIONS steps
STEPS = 160  # of a full trial


@dataclass(frozen=True)
class Task:
    """One instance of a family. `shape(params)` is the curve without noise, shape [EVALUATIONS] or shorter."""

    name: str
    seed: int
    distributions: Distributions
    shape: Callable[[Params], np.ndarray]
    noise: float  # standard deviation of one evaluation

    def curve(self, params: Params, *, trial: int) -> np.ndarray:
        """Noisy scores of a run; the noise of a run is half common to its evaluations, as a seed's luck is."""
        draws = np.random.default_rng([self.seed, trial, 7])
        clean = self.shape(params)
        common = draws.normal() * math.sqrt(0.5)
        return clean + self.noise * (common + draws.normal(size=len(clean)) * math.sqrt(0.5))

    def final(self, params: Params) -> float:
        clean = self.shape(params)
        return float(clean[-1]) if len(clean) == EVALUATIONS else -math.inf

    @cached_property
    def spread(self) -> tuple[np.ndarray, np.ndarray]:
        """1024 configurations spread evenly, as points of the unit cube, and their final scores."""
        points = qmc.Sobol(len(self.distributions), seed=12345).random(1024)
        return points, np.array([self.final(from_unit(self.distributions, point)) for point in points])

    @cached_property
    def finals(self) -> np.ndarray:
        """Their scores, sorted: what random search draws from."""
        return np.sort(self.spread[1])

    @cached_property
    def optimum(self) -> float:
        """The best of a long search: the 8 best of them, each improved by shrinking random steps."""
        draws = np.random.default_rng([self.seed, 99])
        points, scores = self.spread
        best = scores.max()
        for index in np.argsort(scores)[-8:]:
            point, score = points[index], scores[index]
            for step in range(150):
                trial = np.clip(point + draws.normal(size=len(point)) * 0.1 * 0.97**step, 0, 1 - 1e-9)
                value = self.final(from_unit(self.distributions, trial))
                if value > score:
                    point, score = trial, value
            best = max(best, score)
        return float(best)


def make_task(name: str, seed: int) -> Task:
    """The instance `seed` of a family."""
    draws = np.random.default_rng([seed, sorted(FAMILIES).index(name)])
    distributions, shape, noise = FAMILIES[name](draws)
    return Task(name, seed, distributions, shape, noise)


Family = tuple[Distributions, Callable[[Params], np.ndarray], float]


def quadratic(draws: np.random.Generator) -> Family:
    scale = 10 ** draws.uniform(-1, 1)  # of the loss, and so of the best rate
    gradient_noise = 10 ** draws.uniform(-2.5, -1)
    curvature = scale / np.arange(1, 41)
    every = STEPS // EVALUATIONS

    def shape(params: Params) -> np.ndarray:
        rate, momentum = float(params["rate"]), 1 - float(params["one_minus_momentum"])
        drop_at, factor = float(params["drop_at"]) * STEPS, float(params["drop_factor"])
        warm_up = float(params["warm_up"]) * STEPS
        xx, xv, vv = np.ones(40), np.zeros(40), np.zeros(40)  # E[x^2], E[x v], E[v^2] of each direction
        curve = []
        for step in range(STEPS):
            now = rate * min(1.0, (step + 1) / max(warm_up, 1.0)) * (factor if step >= drop_at else 1.0)
            # v' = m v - rate (h x + noise), x' = x + v'
            a = now * curvature
            new_vv = (
                momentum**2 * vv - 2 * momentum * a * xv + a**2 * xx + now**2 * gradient_noise * curvature
            )
            new_xv = momentum * xv - a * xx + new_vv
            xx = xx + 2 * (momentum * xv - a * xx) + new_vv
            xv, vv = new_xv, new_vv
            if (step + 1) % every == 0:
                loss = float((curvature / scale * xx).sum()) / 2
                if not loss < 1e3:
                    break
                curve.append(-math.log10(loss))
        return np.array(curve)

    floats = optuna.distributions.FloatDistribution
    distributions: Distributions = {
        "rate": floats(1e-4, 1e2, log=True),
        "one_minus_momentum": floats(0.003, 1.0, log=True),
        "warm_up": floats(0.0, 0.3),
        "drop_at": floats(0.3, 1.0),
        "drop_factor": floats(0.01, 1.0, log=True),
    }
    return distributions, shape, 0.03


def classifier(draws: np.random.Generator) -> Family:
    best_rate = draws.uniform(-2.5, -0.5)  # log10 of rate / (1 - momentum)
    best_decay = draws.uniform(-5.5, -3.5)  # log10 of decay x rate
    best_warm_up = draws.uniform(0.0, 0.2)
    ceiling = draws.uniform(0.7, 0.9)
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS

    def shape(params: Params) -> np.ndarray:
        momentum = 1 - float(params["one_minus_momentum"])
        rate = math.log10(float(params["rate"]) / (1 - momentum)) - best_rate
        decay = math.log10(float(params["rate"]) * float(params["decay"])) - best_decay
        warm_up = float(params["warm_up"]) - best_warm_up
        if rate > 0.9 + 2 * float(params["warm_up"]):
            return np.full(2, 0.1)
        reach = ceiling - 0.05 * rate**2 - 0.025 * decay**2 - 0.5 * warm_up**2 - 0.1 * (momentum - 0.9) ** 2
        pace = 12 * 10 ** (0.7 * min(rate, 0.0))
        overfit = 0.05 * max(0.0, -decay) * np.maximum(0, t - 0.5)
        curve: np.ndarray = np.maximum(reach, 0.1) * (1 - (1 + pace * t) ** -0.8) - overfit
        return curve

    floats = optuna.distributions.FloatDistribution
    distributions: Distributions = {
        "rate": floats(1e-5, 1.0, log=True),
        "decay": floats(1e-6, 1e-1, log=True),
        "one_minus_momentum": floats(0.003, 1.0, log=True),
        "warm_up": floats(0.0, 0.3),
    }
    return distributions, shape, 0.004


def detector(draws: np.random.Generator) -> Family:
    best_rate = {"sgd": draws.uniform(-2.3, -1.0), "adamw": draws.uniform(-4.0, -2.7)}
    reach = {"sgd": draws.uniform(0.38, 0.42), "adamw": draws.uniform(0.38, 0.42)}
    best_decay, best_jitter, best_balance = (
        draws.uniform(-4.5, -2.5),
        draws.uniform(0, 1),
        draws.uniform(-1, 1),
    )
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS

    def shape(params: Params) -> np.ndarray:
        optimiser = str(params["optimiser"])
        rate = math.log10(float(params["rate"])) - best_rate[optimiser]
        if rate > 0.8 + 3 * float(params["warm_up"]):
            return np.full(1, 0.0)
        decay = math.log10(float(params["decay"])) - best_decay
        loss = (0.05 * (rate + 0.1) ** 2 + 0.008 * decay**2 + 0.012 * (float(params["jitter"]) - best_jitter) ** 2
                + 0.01 * (math.log10(float(params["balance"])) - best_balance) ** 2)  # fmt: skip
        pace = 10 * 10 ** (0.5 * rate)  # a low rate starts slowly, also where it ends best
        return max(0.02, reach[optimiser] - loss) * (1 - np.exp(-pace * t)) * (1 - 0.08 * (1 - t))

    floats = optuna.distributions.FloatDistribution
    distributions: Distributions = {
        "rate": floats(1e-5, 1.0, log=True),
        "decay": floats(1e-6, 1e-1, log=True),
        "warm_up": floats(0.0, 0.2),
        "jitter": floats(0.0, 1.0),
        "balance": floats(0.1, 10.0, log=True),
        "inert": floats(0.0, 1.0),
        "optimiser": optuna.distributions.CategoricalDistribution(("sgd", "adamw")),
    }
    return distributions, shape, 0.006


def dropout(draws: np.random.Generator) -> Family:
    at, bend = draws.uniform(0.25, 0.75), draws.uniform(0.5, 1.5)
    favourite = int(draws.integers(3))
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS

    def shape(params: Params) -> np.ndarray:
        rate = (math.log10(float(params["rate"])) + 5) / 5  # 0..1
        drop = float(params["dropout"]) / 0.8
        across = drop - at - bend * (rate - at) ** 2
        along = rate - at
        choice = (0.0, 0.01, 0.03)[
            (("relu", "gelu", "tanh").index(str(params["activation"])) - favourite) % 3
        ]
        reach = 0.95 - 0.6 * min(across**2, 0.5) - 0.25 * along**2 - choice
        return reach * (1 - 0.6 * np.exp(-6 * t * (0.4 + rate)))

    floats = optuna.distributions.FloatDistribution
    distributions: Distributions = {
        "rate": floats(1e-5, 1.0, log=True),
        "dropout": floats(0.0, 0.8),
        "activation": optuna.distributions.CategoricalDistribution(("relu", "gelu", "tanh")),
    }
    return distributions, shape, 0.002


FAMILIES = {"quadratic": quadratic, "classifier": classifier, "detector": detector, "dropout": dropout}
