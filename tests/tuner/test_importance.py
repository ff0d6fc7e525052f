"""Importances with their uncertainty: what matters is found, what does nothing is not, few trials say so."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from detectune.tuner.history import Dimension, History, Objective, Space, Trial
from detectune.tuner.importance import importances

SPACE = Space(
    (
        Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log"),
        Dimension("SOLVER.MOMENTUM", "float", 0.8, 0.999, "one_minus_log", condition={"KIND": ("sgd",)}),
        Dimension("KIND", "choice", choices=("sgd", "adamw")),
        Dimension("INERT", "int", 0, 100),
    )
)


def history(
    trials: int, *, seed: int = 0, effects: tuple[float, ...] = (1.0,), noise: float = 0.05
) -> History:
    """Scores fall with the squared distance of log10 rate from -2, times an effect for each objective."""
    draws = random.Random(seed)
    rows = []
    for number in range(trials):
        params: dict[str, Any] = {
            "SOLVER.BASE_LR": 10 ** draws.uniform(-4, 0),
            "KIND": draws.choice(["sgd", "adamw"]),
            "INERT": draws.randrange(101),
        }
        if params["KIND"] == "sgd":
            params["SOLVER.MOMENTUM"] = 1 - 10 ** draws.uniform(-3, math.log10(0.2))
        off = (math.log10(params["SOLVER.BASE_LR"]) + 2) ** 2
        values = tuple(-effect * off + draws.gauss(0, noise) for effect in effects)
        diverged = params["SOLVER.BASE_LR"] > 0.5
        rows.append(
            Trial(number, params, "infeasible")
            if diverged
            else Trial(number, params, "complete", values=values)
        )
    objectives = tuple(Objective(f"score{i}", "maximize") for i in range(len(effects)))
    return History("made up", objectives, SPACE, {}, tuple(rows))


def shares(content: dict[str, Any], objective: int = 0) -> dict[str, dict[str, float]]:
    return {row["key"]: row for row in content["objectives"][objective]["knobs"]}


def test_the_knob_that_matters_comes_first_and_its_interval_excludes_the_inert_one() -> None:
    found = shares(importances(history(80), resamplings=40))
    assert next(iter(found)) == "SOLVER.BASE_LR"
    assert found["SOLVER.BASE_LR"]["low"] > found["INERT"]["high"]
    assert sum(row["importance"] for row in found.values()) == pytest.approx(1, abs=1e-3)
    assert all(0 <= row["low"] <= row["importance"] <= row["high"] <= 1 for row in found.values())


def test_pure_noise_leaves_every_interval_wide() -> None:
    found = shares(importances(history(40, effects=(0.0,), noise=1.0), resamplings=40))
    assert all(row["high"] - row["low"] > 0.15 for key, row in found.items() if key != "KIND")


def test_more_trials_make_it_surer() -> None:
    def width(trials: int) -> float:
        row = shares(importances(history(trials), resamplings=40))["INERT"]
        return row["high"] - row["low"]

    assert width(300) < width(30)


def test_each_objective_has_its_own_answer() -> None:
    content = importances(history(60, effects=(1.0, 0.0)), resamplings=10)
    assert [o["metric"] for o in content["objectives"]] == ["score0", "score1"]
    first, second = (shares(content, i)["SOLVER.BASE_LR"]["importance"] for i in (0, 1))
    assert first > second


def test_too_few_trials_say_so() -> None:
    content = importances(history(9))
    assert content["objectives"] == [] and "12 are needed" in content["note"]


def test_the_same_history_gives_the_same_numbers() -> None:
    assert importances(history(40), seed=3, resamplings=5) == importances(history(40), seed=3, resamplings=5)
    assert importances(history(40), seed=3, resamplings=5) != importances(history(40), seed=4, resamplings=5)


def test_a_value_at_the_end_of_a_range_counted_from_one_is_in_it() -> None:
    """1 - 0.9387 is 0.06130000000000002, and what the sampler knows as the end of that range is 0.0613."""
    space = (
        Dimension("SOLVER.MOMENTUM", "float", 0.9387, 0.99, "one_minus_log"),
        Dimension("INERT", "int", 0, 9),
    )
    rows = [
        Trial(
            k,
            {"SOLVER.MOMENTUM": (0.9387, 0.99)[k % 2], "INERT": k % 10},
            "complete",
            values=(k + 20.0 * (k % 2),),
        )
        for k in range(40)
    ]
    made = History("ends", (Objective("score", "maximize"),), Space(space), {}, tuple(rows))
    assert next(iter(shares(importances(made, resamplings=5)))) == "SOLVER.MOMENTUM"
