"""Samplers and pruners by name. Exploration depends on a trial's number alone; what comes after it is Optuna's.

`auto` is `strategy.py`: a Sobol sequence, then a model. `sobol`, `grid` and `random` never look at results.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from detectune.tuner.designs import grid_point, random_point
from detectune.tuner.distributions import distributions_of
from detectune.tuner.history import Space
from detectune.tuner.strategy import StagedSampler, exploring, sobol_point

SamplerName = Literal["auto", "sobol", "tpe", "gp", "cmaes", "grid", "random"]
PrunerName = Literal["none", "asha", "hyperband", "median"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
PRUNERS: tuple[PrunerName, ...] = get_args(PrunerName)

REDUCTION = 3  # ASHA and Hyperband keep one of so many at each rung (Li et al. 2018, arXiv:1810.05934)
FIRST_RUNG = (
    0.25  # of a full trial: earlier, curves still cross, and the search is led astray (bench/regret.py)
)
MEDIAN_AFTER = 4  # complete trials before the median rule ends any


def make_sampler(name: SamplerName, space: Space, *, seed: int, trials: int) -> BaseSampler:
    """The sampler of the name for a study of `trials` trials."""
    distributions = distributions_of(space)
    explore = exploring(len(space), total=trials)
    match name:
        case "sobol":
            return Planned(distributions, lambda n: sobol_point(distributions, seed=seed, index=n))
        case "random":
            return Planned(distributions, lambda n: random_point(distributions, seed=seed, number=n))
        case "grid":
            return Planned(
                distributions, lambda n: grid_point(distributions, seed=seed, number=n, trials=trials)
            )
        case "cmaes":
            return CmaAfterSobol(distributions, seed=seed, explore=explore)
        case "auto" | "gp" | "tpe":
            return StagedSampler(distributions, seed=seed, explore=explore, model=name)


def make_pruner(name: PrunerName, *, first: int, last: int | None) -> BasePruner:
    """The pruner of the name. `first` and `last` are the iterations of the first and the last evaluation.

    Without `last` Hyperband takes it from the first trial that is complete.
    """
    match name:
        case "asha":
            rung = max(first, round(FIRST_RUNG * last)) if last else first
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=rung, reduction_factor=REDUCTION)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=last or "auto", reduction_factor=REDUCTION
            )
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_AFTER, interval_steps=first)
        case "none":
            return optuna.pruners.NopPruner()


class Planned(BaseSampler):
    """A sampler whose trial N is `point(N)`, whatever the others gave."""

    def __init__(
        self, distributions: dict[str, BaseDistribution], point: Callable[[int], dict[str, Any]]
    ) -> None:
        self.distributions, self.point = distributions, point

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.point(trial.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.point(trial.number)[param_name]


class CmaAfterSobol(Planned):
    """A Sobol sequence, then Optuna's CMA-ES that sets out from the best of it; choices stay with the sequence."""

    def __init__(self, distributions: dict[str, BaseDistribution], *, seed: int, explore: int) -> None:
        super().__init__(distributions, lambda n: sobol_point(distributions, seed=seed, index=n))
        self.seed, self.explore = seed, explore

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if trial.number < self.explore:
            return dict(self.distributions)
        return self._cma(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.number < self.explore:
            return self.point(trial.number)
        return self._cma(study, trial).sample_relative(study, trial, search_space)

    def _cma(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            explored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            best = _best([trial for trial in explored if trial.number < self.explore], study)
            return optuna.samplers.CmaEsSampler(
                seed=self.seed + trial.number,
                n_startup_trials=0,
                # A warm start takes the best tenth of what it is given: ten times the best is the best.
                source_trials=None if best is None else [best] * 10,
                warn_independent_sampling=False,
            )


def _best(trials: Sequence[FrozenTrial], study: Study) -> FrozenTrial | None:
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    return min(trials, key=lambda trial: sign * trial.values[0], default=None)
