"""What a study tries next: reproducible, independent of the order of arrival, and taught by every kind of end."""

from __future__ import annotations

from collections import Counter
from math import log10

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from detectune.tuner.strategy import StagedSampler, exploring, from_unit, lessons, propose, sobol_point

SPACE = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "layers": IntDistribution(1, 4),
    "kind": CategoricalDistribution(("a", "b", "c")),
}
UP = (optuna.study.StudyDirection.MAXIMIZE,)


def trial(
    number: int,
    value: float | None = None,
    *,
    curve: dict[int, float] | None = None,
    infeasible: bool = False,
    **params: object,
) -> FrozenTrial:
    """Complete with a value, diverged with `infeasible`, pruned with only a curve."""
    state = TrialState.FAIL if infeasible else TrialState.PRUNED if value is None else TrialState.COMPLETE
    made = create_trial(
        state=state,
        value=value,
        params={"rate": 0.01, "layers": 2, "kind": "a"} | params,
        distributions=SPACE,
        intermediate_values=curve or {},
        user_attrs={"infeasible": True} if infeasible else {},
    )
    made.number = number
    return made


def test_exploration_proposes_the_same_points_whatever_the_results_were() -> None:
    alone = [propose(SPACE, [], number=n, seed=3, explore=8) for n in range(8)]
    history = [trial(n, float(n)) for n in range(5)]
    assert [propose(SPACE, history, number=n, seed=3, explore=8) for n in range(8)] == alone
    assert [propose(SPACE, [], number=n, seed=4, explore=8) for n in range(8)] != alone


def test_sobol_points_cover_every_knob_evenly() -> None:
    points = [sobol_point(SPACE, seed=5, index=n) for n in range(64)]
    assert Counter(point["layers"] for point in points) == dict.fromkeys(range(1, 5), 16)
    assert all(20 <= count <= 23 for count in Counter(point["kind"] for point in points).values())
    decades = Counter(int(f"{point['rate']:e}"[-2:]) for point in points)
    assert decades == {4: 16, 3: 16, 2: 16, 1: 16}  # exponents -4 to -1


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 1e-12])
def test_every_point_of_the_cube_is_a_legal_configuration(u: float) -> None:
    for distribution in [SPACE["rate"], SPACE["layers"], IntDistribution(1, 64, log=True)]:
        (value,) = from_unit({"x": distribution}, [u]).values()
        assert distribution.low <= value <= distribution.high
        assert isinstance(value, int) == isinstance(distribution, IntDistribution)
    stepped = from_unit({"x": FloatDistribution(0, 0.9, step=0.3)}, [u])["x"]
    assert stepped <= 0.9 and stepped / 0.3 == pytest.approx(round(stepped / 0.3))
    assert from_unit({"x": SPACE["kind"]}, [u])["x"] == "abc"[int(3 * u)]


@pytest.mark.parametrize("model", ["gp", "tpe"])
def test_a_proposal_depends_on_seed_number_and_history_alone(model: str) -> None:
    history = [trial(n, -((n - 3) ** 2), rate=10 ** (-4 + n / 2)) for n in range(8)]
    ask = {"number": 8, "seed": 1, "explore": 4, "model": model}
    first = propose(SPACE, history, **ask)
    assert propose(SPACE, history[::-1], **ask) == first
    assert propose(SPACE, history, **ask | {"seed": 2}) != first


def test_early_ends_teach() -> None:
    """Pruned at step 1 with 0.2, where finished trials gained 0.5 after step 1; diverged counts as the worst."""
    history = [
        trial(0, 0.8, curve={1: 0.3, 2: 0.8}),
        trial(1, 0.9, curve={1: 0.4, 2: 0.9}),
        trial(2, curve={1: 0.2}),
        trial(3, infeasible=True),
        trial(4, curve={}),
    ]
    assert [t.values[0] for t in lessons(SPACE, history, directions=UP)] == pytest.approx(
        [0.8, 0.9, 0.7, 0.7]
    )


def test_a_fast_start_that_was_overtaken_does_not_look_like_the_best() -> None:
    """0.5 at step 1 and the usual gain of 0.5 would make 1.0, better than anything seen; it counts as the median."""
    history = [trial(0, 0.8, curve={1: 0.3}), trial(1, 0.9, curve={1: 0.4}), trial(2, curve={1: 0.5})]
    assert lessons(SPACE, history, directions=UP)[2].values == [pytest.approx(0.85)]
    down = (optuna.study.StudyDirection.MINIMIZE,)
    history = [trial(0, 0.2, curve={1: 0.7}), trial(1, 0.1, curve={1: 0.6}), trial(2, curve={1: 0.5})]
    assert lessons(SPACE, history, directions=down)[2].values == [pytest.approx(0.15)]


def test_the_model_finds_the_top_of_a_hill_where_half_diverges() -> None:
    """score = -(log10 rate + 2)^2, and above 0.1 it diverges; 12 proposals after 6 points come within a factor 2."""
    study = optuna.create_study(
        direction="maximize", sampler=StagedSampler(SPACE, seed=0, explore=exploring(3, total=18))
    )
    for _ in range(18):
        asked = study.ask(SPACE)
        if asked.params["rate"] > 0.1:
            asked.set_user_attr("infeasible", True)
            study.tell(asked, state=TrialState.FAIL)
        else:
            study.tell(asked, -((log10(asked.params["rate"]) + 2) ** 2) - 0.3 * (asked.params["kind"] != "b"))
    assert study.best_params["kind"] == "b" and 0.005 < study.best_params["rate"] < 0.02
    late = [t.params["rate"] for t in study.get_trials()[10:]]
    assert sum(rate > 0.1 for rate in late) <= 2


def test_running_trials_are_avoided() -> None:
    history = [trial(n, -abs(n - 4) / 4, rate=10 ** (-4 + n / 2)) for n in range(9)]
    first = propose(SPACE, history, number=9, seed=0, explore=4)
    waiting = create_trial(state=TrialState.RUNNING, params=first, distributions=SPACE)
    waiting.number = 9
    second = propose(SPACE, [*history, waiting], number=10, seed=0, explore=4)
    assert second != first


@pytest.mark.parametrize(
    ("num_knobs", "total", "expected"), [(3, 60, 6), (8, 48, 8), (8, 24, 4), (1, 100, 4), (2, 6, 4)]
)
def test_exploration_takes_two_points_a_knob_but_a_sixth_at_most(num_knobs, total, expected) -> None:
    assert exploring(num_knobs, total=total) == expected
