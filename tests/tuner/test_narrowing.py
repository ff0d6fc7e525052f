"""The next round's space on studies with a known optimum: it holds it, and is smaller or wider as it should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

from detectune.config.load import load_config
from detectune.tuner.history import Dimension, History, Objective, Space, Trial
from detectune.tuner.lengths import shortened
from detectune.tuner.narrowing import next_space
from detectune.tuner.regions import at_position, position, widened, with_range

RATE = Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log")
MOMENTUM = Dimension("SOLVER.MOMENTUM", "float", 0.8, 0.999, "one_minus_log")
WARM_UP = Dimension("SOLVER.WARM_UP_ITERS", "int", 0, 200)
SPACE = Space((RATE, MOMENTUM, WARM_UP))


def study(seed: int, *, top: float, diverges_above: float = 2.0, trials: int = 24) -> History:
    """Scores fall with the square of the distance of the rate's place from `top`; the others do not matter."""
    draws = np.random.default_rng([seed, 77])
    points = qmc.Sobol(3, scramble=True, seed=draws).random(32)[:trials]  # as in the first round of 60 trials
    rows = []
    for number, places in enumerate(points.tolist()):
        params = {d.key: at_position(d, p) for d, p in zip(SPACE, places, strict=True)}
        params["SOLVER.WARM_UP_ITERS"] = round(params["SOLVER.WARM_UP_ITERS"])
        lost = places[0] > diverges_above
        value = None if lost else (1 - 2 * (places[0] - top) ** 2 + 0.01 * draws.normal(),)
        rows.append(Trial(number, params, "infeasible" if lost else "complete", values=value))
    return History("s", (Objective("m", "maximize"),), SPACE, {}, tuple(rows))


@pytest.mark.parametrize("top", [0.4, 0.5, 0.6])
def test_the_range_narrows_around_the_optimum(top: float) -> None:
    right = 0
    for seed in range(100):
        space, _ = next_space(study(seed, top=top))
        new = space["SOLVER.BASE_LR"]
        assert new.low is not None and new.high is not None
        width = position(RATE, new.high) - position(RATE, new.low)
        right += new.low < at_position(RATE, top) < new.high and 0.3 <= width <= 0.85
    assert right >= 95


def test_an_optimum_beyond_the_edge_moves_the_range_there() -> None:
    wider = 0
    for seed in range(100):
        new = next_space(study(seed, top=1.2))[0]["SOLVER.BASE_LR"]
        assert new.low is not None and new.high is not None
        wider += new.high == pytest.approx(100) and new.low > 1e-4
    assert wider >= 95


def test_what_diverges_is_cut_off() -> None:
    cut = 0
    for seed in range(100):
        space, changes = next_space(study(seed, top=0.5, diverges_above=0.6))
        new = space["SOLVER.BASE_LR"]
        assert new.high is not None
        cut += new.high <= at_position(RATE, 0.75)
    assert cut >= 95
    assert "cannot work" in str(changes[0]) and "SOLVER.BASE_LR" in str(changes[0])


def test_few_trials_change_nothing() -> None:
    assert next_space(study(0, top=0.5, trials=4)) == (SPACE, [])


@pytest.mark.parametrize("dimension", [RATE, MOMENTUM, WARM_UP])
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_places_and_values_are_inverse(dimension: Dimension, place: float) -> None:
    assert position(dimension, at_position(dimension, place)) == pytest.approx(place)


def test_ranges_stay_legal_and_whole() -> None:
    assert widened(WARM_UP, high=False) == (0, 200), "iterations cannot be negative"
    assert with_range(WARM_UP, 12.3, 45.1).high == 46
    fraction = Dimension("SOLVER.LR_FINAL_FRACTION", "float", 0.5, 0.9)
    assert widened(fraction, high=True) == (0.5, 1.0)


def test_a_short_run_shortens_all_that_is_counted_in_iterations(digits) -> None:
    settings = {
        "SOLVER.MAX_ITER": 1000, "SOLVER.LR_POLICY": "steps_with_decay", "SOLVER.STEPS": [0, 600, 900],
        "SOLVER.WARM_UP_ITERS": 40, "TRAIN.EVAL_ITERS": 500,
    }  # fmt: skip
    short = shortened(load_config(digits, settings), 0.25)
    assert (short.SOLVER.MAX_ITER, list(short.SOLVER.STEPS)) == (250, [0, 150, 225])
    assert short.SOLVER.WARM_UP_ITERS == 10 and short.TRAIN.EVAL_ITERS == 31
    kept = shortened(load_config(digits, settings), 0.25, searched=("SOLVER.WARM_UP_ITERS",))
    assert kept.SOLVER.WARM_UP_ITERS == 40
    epochs = shortened(load_config(digits, {"SOLVER.MAX_EPOCHS": 10}), 0.25)
    assert epochs.SOLVER.MAX_EPOCHS == 2
