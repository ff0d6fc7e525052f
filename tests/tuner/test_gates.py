"""The gates on studies with a known answer: each must say the right thing in at least 95 of 100 seeded repetitions.

Trials are drawn at random; scores are quadratic in a knob's place in its range, with noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detectune.tuner import gates, regions
from detectune.tuner.curves import Curves
from detectune.tuner.gates import Gate
from detectune.tuner.history import Dimension, History, Objective, Space, Trial

RATE = Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log")
MOMENTUM = Dimension("SOLVER.MOMENTUM", "float", 0.8, 0.999, "one_minus_log")
DECAY = Dimension("SOLVER.WEIGHT_DECAY", "float", 1e-6, 1e-2, "log", role="nuisance")
SPACE = Space((RATE, MOMENTUM, DECAY))
REPETITIONS, NEEDED = 100, 95
EVALUATIONS = 20


def study(
    seed: int,
    *,
    trials: int = 60,
    top: float = 0.5,
    effect: float = 1.0,
    spread: float = 0.02,
    diverges_above: float = 2.0,
    direction: str = "maximize",
    narrow: bool = False,
) -> History:
    """Scores 1 - effect x (place of the rate - top)^2, noise of `spread`; above a place of the rate trials diverge.

    With `narrow` a peak that only a place within 0.03 of the top sees.
    """
    draws = np.random.default_rng(seed)
    sign = 1 if direction == "maximize" else -1
    rows = []
    for number in range(trials):
        place = draws.random(3)
        params = {
            "SOLVER.BASE_LR": 10 ** (-4 + 4 * place[0]),
            "SOLVER.MOMENTUM": 1 - 0.2 * 0.005 ** place[1],
            "SOLVER.WEIGHT_DECAY": 10 ** (-6 + 4 * place[2]),
        }
        score = 1 - effect * (place[0] - top) ** 2 + spread * draws.normal()
        if narrow:
            score = float(np.exp(-(((place[0] - top) / 0.03) ** 2))) + spread * draws.normal()
        diverged = place[0] > diverges_above
        rows.append(
            Trial(
                number,
                params,
                "infeasible" if diverged else "complete",
                values=None if diverged else (sign * score,),
            )
        )
    return History("made up", (Objective("score", direction),), SPACE, {}, tuple(rows))


def with_curves(
    history: History, seed: int, shape: Callable[[np.ndarray], np.ndarray], *, spread: float = 0.005,
    loss: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> Curves:  # fmt: skip
    """The same course for every trial, with noise of its own; t runs from 0 to 1."""
    draws = np.random.default_rng([seed, 1])
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
    metric, losses = {}, {}
    for trial in history.trials:
        values = shape(t) + spread * draws.normal(size=EVALUATIONS)
        metric[trial.number] = list(zip((100 * t).tolist(), values.tolist(), strict=True))
        fine = np.arange(1, 101) / 100
        falling = np.exp(-3 * fine) + 0.2
        falling = falling * (1 + 0.05 * draws.normal(size=100)) if loss is None else loss(falling, draws)
        losses[trial.number] = list(zip((100 * fine).tolist(), falling.tolist(), strict=True))
    return Curves(metric, losses)


def rising(t: np.ndarray) -> np.ndarray:
    """Levels off: 99 % of its gain by 58 % of the run."""
    return 1 - np.exp(-8 * t)


def repetitions(judge: Callable[[int], Gate], right: Callable[[Gate], bool]) -> int:
    return sum(right(judge(seed)) for seed in range(REPETITIONS))


@pytest.mark.parametrize("top", [0.35, 0.5, 0.7])
def test_an_optimum_inside_is_no_matter_for_the_boundary(top: float) -> None:
    assert repetitions(lambda s: gates.boundary(study(s, top=top)), lambda g: g.level == "PASS") >= NEEDED


@pytest.mark.parametrize(("top", "direction"), [(1.2, "maximize"), (1.0, "minimize")])
def test_an_optimum_at_the_upper_edge_asks_for_that_range_wider(top: float, direction: str) -> None:
    def right(gate: Gate) -> bool:
        return gate.level == "FAIL" and gate.keys == ("SOLVER.BASE_LR",) and "0.0001 to 100" in gate.advice

    assert repetitions(lambda s: gates.boundary(study(s, top=top, direction=direction)), right) >= NEEDED


def test_an_optimum_at_the_lower_edge_too() -> None:
    def right(gate: Gate) -> bool:
        return gate.level == "FAIL" and "lower end: 1e-06 to 1" in gate.advice

    assert repetitions(lambda s: gates.boundary(study(s, top=-0.2)), right) >= NEEDED


@pytest.mark.parametrize("trials", [24, 60, 200])
def test_pure_noise_asks_for_no_wider_range(trials: int) -> None:
    right = repetitions(
        lambda s: gates.boundary(study(s, trials=trials, effect=0, spread=1)), lambda g: g.level == "PASS"
    )
    assert right >= NEEDED


def test_many_points_near_the_best_are_enough_and_a_lonely_one_is_not() -> None:
    assert repetitions(lambda s: gates.enough_points(study(s)), lambda g: g.level == "PASS") >= NEEDED
    few = repetitions(
        lambda s: gates.enough_points(study(s, trials=10, effect=4)), lambda g: g.level != "PASS"
    )
    assert few >= NEEDED


def test_half_infeasible_fails_and_says_from_which_rate_on() -> None:
    def right(gate: Gate) -> bool:
        cut = float(gate.advice.split(" = ")[1].split(":")[0])
        return gate.level == "FAIL" and gate.keys == ("SOLVER.BASE_LR",) and 0.01 <= cut <= 0.03

    assert repetitions(lambda s: gates.infeasible(study(s, diverges_above=0.5)), right) >= NEEDED
    assert gates.infeasible(study(0)).level == "PASS"


def test_infeasible_at_random_blames_no_knob() -> None:
    def scattered(seed: int) -> History:
        history = study(seed)
        lost = set(np.random.default_rng([seed, 2]).permutation(60)[:20].tolist())
        trials = tuple(
            Trial(t.number, t.params, "infeasible") if t.number in lost else t for t in history.trials
        )
        return History("made up", history.objectives, SPACE, {}, trials)

    right = repetitions(
        lambda s: gates.infeasible(scattered(s)), lambda g: g.level == "WARN" and "No single knob" in g.advice
    )
    assert right >= NEEDED


@pytest.mark.parametrize(
    ("shape", "level", "said"),
    [
        (rising, "PASS", "levelled off"),
        (lambda t: 1 - np.exp(-1.2 * t), "WARN", "longer"),
        (lambda t: np.where(t < 0.08, 0.6, 0.6 - 0.1 * t), "FAIL", "fewer"),
    ],
    ids=["right", "too short", "too long"],
)
def test_the_length_of_runs(shape: Callable[[np.ndarray], np.ndarray], level: str, said: str) -> None:
    def judge(seed: int) -> Gate:
        history = study(seed)
        return gates.length(history, with_curves(history, seed, shape))

    assert repetitions(judge, lambda g: g.level == level and said in g.text + g.advice) >= NEEDED


def test_overfitting_is_told_from_noise() -> None:
    def judge(seed: int, shape: Callable[[np.ndarray], np.ndarray], spread: float) -> Gate:
        history = study(seed)
        return gates.overfitting(history, with_curves(history, seed, shape, spread=spread))

    def bent(t: np.ndarray) -> np.ndarray:
        return rising(t) - 0.3 * np.maximum(0, t - 0.5)

    assert repetitions(lambda s: judge(s, bent, 0.01), lambda g: g.level == "WARN") >= NEEDED
    assert repetitions(lambda s: judge(s, rising, 0.05), lambda g: g.level == "PASS") >= NEEDED


def test_an_unstable_loss_fails_and_a_noisy_one_does_not() -> None:
    def spiking(loss: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        loss = loss.copy()
        loss[draws.choice(np.arange(20, 100), size=6, replace=False)] *= 4
        return loss

    def judge(seed: int, loss: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None) -> Gate:
        history = study(seed)
        return gates.trouble(history, with_curves(history, seed, rising, loss=loss))

    assert (
        repetitions(lambda s: judge(s, spiking), lambda g: g.level == "FAIL" and "rate" in g.advice) >= NEEDED
    )
    assert repetitions(lambda s: judge(s, None), lambda g: g.level == "PASS") >= NEEDED


def test_evaluations_that_swing_late_warn() -> None:
    def judge(seed: int) -> Gate:
        history = study(seed)
        return gates.trouble(history, with_curves(history, seed, lambda t: 0.3 * rising(t), spread=0.3))

    assert repetitions(judge, lambda g: g.level == "WARN" and "swing" in g.text) >= NEEDED


def test_a_study_without_curves_or_trials_is_judged_all_the_same() -> None:
    empty = History("empty", (Objective("score", "maximize"),), SPACE, {}, ())
    assert [gate.name for gate in gates.judge(empty, Curves())] == [
        "boundary", "enough points", "infeasible", "optimisation", "length", "overfitting", "saturation",
        "question",
    ]  # fmt: skip
    assert all(gate.advice for gate in gates.judge(empty, Curves()) if gate.level != "PASS")


def test_places_and_wider_ranges_follow_the_scale() -> None:
    assert regions.position(RATE, 0.01) == pytest.approx(0.5)
    assert regions.position(MOMENTUM, 1 - (0.2 * 0.001) ** 0.5) == pytest.approx(0.5)
    assert regions.widened(RATE, high=True) == pytest.approx((1e-4, 100))
    assert regions.widened(Dimension("A", "int", 0, 10), high=False) == (-5, 10)
    assert regions.widened(MOMENTUM, high=True)[1] == pytest.approx(1 - 0.001 / 200**0.5)
