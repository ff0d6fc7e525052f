"""Samplers and pruners by name: Optuna's, behind an exploration that depends on the number of the trial alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from detectune.tuner.designs import Design, propose
from detectune.tuner.distributions import distributions_of
from detectune.tuner.history import Space

SamplerName = Literal["sobol", "tpe", "gp", "cmaes", "grid", "random"]
PrunerName = Literal["none", "asha", "hyperband", "median"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
PRUNERS: tuple[PrunerName, ...] = get_args(PrunerName)

DESIGNS: dict[SamplerName, Design] = {"sobol": "sobol", "grid": "grid", "random": "random"}
"""Samplers that do not look at results."""


def exploration_length(dimensions: int) -> int:
    """How many trials of a Sobol sequence come before a sampler that learns: a power of two, where it is balanced."""
    return int(2 ** math.ceil(math.log2(max(8, 2 * dimensions))))


class StudySampler(BaseSampler):
    """A plan for the first trials (for all of them, if it is a design), then Optuna's sampler of the name.

    Args:
        trials: how many the study will have; only a grid asks.
        explore: how many trials are explored before the sampler learns; by default `exploration_length`.
    """

    def __init__(
        self, name: SamplerName, space: Space, *, seed: int, trials: int, explore: int | None = None
    ) -> None:
        self.name = name
        self.design: Design = DESIGNS.get(name, "sobol")
        self.explore = exploration_length(len(space)) if explore is None else explore
        self.distributions = distributions_of(space)
        self.seed = seed
        self.trials = trials
        self._made: tuple[int, BaseSampler | None] = (-1, None)

    def _learner(self, study: Study, trial: FrozenTrial) -> BaseSampler | None:
        """Optuna's sampler for this trial, or None where the plan decides."""
        if self.name in DESIGNS or trial.number < self.explore:
            return None
        if self._made[0] != trial.number:
            self._made = (trial.number, make_learner(self.name, study, seed=self.seed + trial.number))
        return self._made[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        learner = self._learner(study, trial)
        return (
            dict(self.distributions) if learner is None else learner.infer_relative_search_space(study, trial)
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        learner = self._learner(study, trial)
        if learner is not None:
            return learner.sample_relative(study, trial, search_space)
        return propose(
            self.design, self.distributions, seed=self.seed, number=trial.number, trials=self.trials
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        learner = self._learner(study, trial)
        if learner is not None:
            return learner.sample_independent(study, trial, param_name, param_distribution)
        return propose(
            self.design, self.distributions, seed=self.seed, number=trial.number, trials=self.trials
        )[param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if (learner := self._learner(study, trial)) is not None:
            learner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if (learner := self._learner(study, trial)) is not None:
            learner.after_trial(study, trial, state, values)


def make_learner(name: SamplerName, study: Study, *, seed: int) -> BaseSampler:
    """Optuna's sampler for a study whose exploration is over."""
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        if name == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=0, multivariate=True, group=True, constant_liar=True
            )
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=False)
        assert name == "cmaes"
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=0, x0=_best_parameters(study), warn_independent_sampling=False
        )


def make_pruner(name: PrunerName, *, first: int, last: int) -> BasePruner:
    """The pruner of the name. `first` and `last` are the iterations of the first and the last evaluation."""
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=last, reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, interval_steps=first)
    return optuna.pruners.NopPruner()


def _best_parameters(study: Study) -> dict[str, Any] | None:
    """Numbers of the best complete trial, from where CMA-ES sets out."""
    complete = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.values]
    if not complete:
        return None
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    best = min(complete, key=lambda trial: sign * (trial.value or 0.0))
    return {name: value for name, value in best.params.items() if isinstance(value, int | float)}
