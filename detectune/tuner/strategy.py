"""What a study tries next when nobody says otherwise: `propose`, a pure function of (space, trials so far, seed).

First a scrambled Sobol sequence: it covers every knob evenly whatever the results, so that the study can also say
which knob matters. Then a Gaussian process with expected improvement (Optuna's), and beyond the size it was measured
for, TPE. Trials that ended early teach too: one that was pruned counts with its last value plus what finished trials
still gained from there, one that diverged with the worst value seen. Random numbers come from (seed, trial number),
so workers need not agree on anything.

The choice is measured against random search and TPE in bench/regret.py; how many points explore was chosen on seeds 0
to 19 of those tasks, and is shown on seeds 40 to 99. Knows nothing about configurations: a space here is Optuna's
distributions by name, a history is Optuna's trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

EXPLORE_PER_KNOB = 2  # Sobol points for each knob ...
EXPLORE_FRACTION = 1 / 6  # ... but of all trials no more than this part
EXPLORE_LEAST = 4
INFEASIBLE = "infeasible"  # the attribute of a trial that was told FAIL because its values cannot work
GP_MOST_TRIALS = (
    40  # measured up to here; a Gaussian process of many more takes seconds to fit, and TPE goes on
)

Distributions = Mapping[str, BaseDistribution]


def exploring(num_knobs: int, *, total: int) -> int:
    """How many of `total` trials the Sobol sequence proposes."""
    return max(EXPLORE_LEAST, min(EXPLORE_PER_KNOB * num_knobs, round(EXPLORE_FRACTION * total)))


def propose(
    distributions: Distributions,
    trials: Sequence[FrozenTrial],
    *,
    number: int,
    seed: int,
    explore: int,
    directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
    model: str = "auto",
) -> dict[str, Any]:
    """The configuration of trial `number`.

    Args:
        distributions: of every knob. A knob that is absent from a trial (its condition did not hold) counts there
            with the middle of its range.
        trials: so far, in any order; those without an end yet are avoided, not waited for.
        number: of the new trial, 0 for the first. Below `explore` the other trials do not matter.
        model: gp, tpe, or auto, which is gp up to GP_MOST_TRIALS trials.
    """
    known = sorted((t for t in trials if t.number != number), key=lambda t: t.number)
    ended = lessons(distributions, known, directions=directions)
    if number < explore or len(ended) < 2:
        return sobol_point(distributions, seed=seed, index=number)
    own_seed = (seed * 1_000_003 + number) % 2**31
    sampler: BaseSampler
    if model == "tpe" or (model == "auto" and len(ended) > GP_MOST_TRIALS):
        sampler = TPESampler(seed=own_seed, n_startup_trials=0)
    else:
        sampler = GPSampler(seed=own_seed, n_startup_trials=0)
    running = [
        _filled(distributions, trial) for trial in known if not trial.state.is_finished() and trial.params
    ]
    study = optuna.create_study(directions=list(directions), sampler=sampler)
    study.add_trials([*ended, *running])
    return study.ask(dict(distributions)).params


def sobol_point(distributions: Distributions, *, seed: int, index: int) -> dict[str, Any]:
    """Point `index` of the scrambled Sobol sequence of `seed`, as a configuration."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(distributions), scramble=True, seed=seed)
    if index:  # scipy cannot go forward by nothing
        sequence.fast_forward(index)
    return from_unit(distributions, sequence.random(1)[0])


def from_unit(distributions: Distributions, point: Sequence[float]) -> dict[str, Any]:
    """A point of the unit cube [0, 1)^D as a configuration: equal volumes are equally likely on each knob's scale."""
    return {name: _value(d, float(u)) for (name, d), u in zip(distributions.items(), point, strict=True)}


def lessons(
    distributions: Distributions, trials: Sequence[FrozenTrial], *, directions: Sequence[StudyDirection]
) -> list[FrozenTrial]:
    """Every ended trial as a complete one, with the value that a model should learn from it.

    With several objectives only complete and diverged trials teach: Optuna prunes by one objective only.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    found = [_finished(distributions, t, t.values) for t in complete]
    if not complete:
        return found
    if len(directions) == 1:
        pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
        maximize = directions[0] == StudyDirection.MAXIMIZE
        found += [
            _finished(distributions, t, [_expected_end(t, complete, maximize=maximize)]) for t in pruned
        ]
    worst = [
        (min if direction == StudyDirection.MAXIMIZE else max)(t.values[i] for t in found)
        for i, direction in enumerate(directions)
    ]
    diverged = [t for t in trials if t.state == TrialState.FAIL and t.user_attrs.get(INFEASIBLE)]
    return found + [_finished(distributions, t, worst) for t in diverged]


class StagedSampler(BaseSampler):
    """`propose` as a sampler of Optuna, for a study whose space is known from the start."""

    def __init__(self, distributions: Distributions, *, seed: int, explore: int, model: str = "auto") -> None:
        self.distributions = dict(distributions)
        self.seed = seed
        self.explore = explore
        self.model = model

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return propose(
            search_space,
            study.get_trials(deepcopy=False),
            number=trial.number,
            seed=self.seed,
            explore=self.explore,
            directions=study.directions,
            model=self.model,
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Only for a knob that the space did not name."""
        return RandomSampler(seed=self.seed + trial.number).sample_independent(
            study, trial, param_name, param_distribution
        )


def _expected_end(trial: FrozenTrial, complete: Sequence[FrozenTrial], *, maximize: bool) -> float:
    """The last value, plus the median of what complete trials gained after that step; but no better than their median.

    The bound keeps a configuration that starts fast and is then overtaken from looking like the best of all.
    """
    step = max(trial.intermediate_values)
    value = trial.intermediate_values[step]
    gains = [t.values[0] - t.intermediate_values[step] for t in complete if step in t.intermediate_values]
    bound: float = median(t.values[0] for t in complete)
    expected: float = value + (median(gains) if gains else 0.0)
    return min(expected, bound) if maximize else max(expected, bound)


def _finished(distributions: Distributions, trial: FrozenTrial, values: Sequence[float]) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        params=_all_params(distributions, trial),
        distributions=dict(distributions),
        values=list(values),
    )


def _filled(distributions: Distributions, trial: FrozenTrial) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=_all_params(distributions, trial),
        distributions=dict(distributions),
    )


def _all_params(distributions: Distributions, trial: FrozenTrial) -> dict[str, Any]:
    return {name: trial.params.get(name, _value(d, 0.5)) for name, d in distributions.items()}


def _value(distribution: BaseDistribution, u: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    edge = 0.5 if whole else 0.0  # every whole number gets the same share, the ends included
    if distribution.log:
        a, b = math.log(low - (edge if low > edge else 0)), math.log(high + edge)
        value = math.exp(a + u * (b - a))
    else:
        value = low - edge + u * (high - low + 2 * edge)
    if distribution.step:
        value = low + round((value - low) / distribution.step) * distribution.step
    value = min(max(value, low), high)
    return round(value) if whole else value
