"""The best run again: a real gain is adopted, the luckiest of equals is not, and ties are named."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.tuner.confirm import Candidate, choose, conclude
from detectune.tuner.history import Dimension, History, Objective, Space, Trial

SPACE = Space((Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log"),))


def drawn(seed: int, means: list[float], *, seeds: int = 3, spread: float = 0.01) -> list[Candidate]:
    """Candidates with these true means, the first of them the base."""
    draws = np.random.default_rng(seed)
    return [
        Candidate("base" if i == 0 else f"trial {i}", i or None, {"SOLVER.BASE_LR": 0.1 * i},
                  tuple((mean + spread * draws.normal(size=seeds)).tolist()))
        for i, mean in enumerate(means)
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rivals", [1, 3, 8])
def test_of_equals_none_is_adopted(seeds: int, rivals: int) -> None:
    changed = sum(
        conclude(drawn(n, [0.5] * (rivals + 1), seeds=seeds), maximize=True)["change"] for n in range(200)
    )
    assert changed <= 10  # 5 %


@pytest.mark.parametrize("maximize", [True, False])
def test_a_gain_far_beyond_the_noise_is_adopted_and_the_right_trial_wins(maximize: bool) -> None:
    sign = 1 if maximize else -1
    found = [
        conclude(drawn(n, [sign * mean for mean in (0.5, 0.55, 0.7, 0.6)]), maximize=maximize)
        for n in range(100)
    ]
    assert sum(row["change"] and row["winner"] == "trial 2" for row in found) >= 95
    assert all("Change: trial 2 reaches" in row["conclusion"] for row in found if row["change"])


def test_a_winner_inside_the_noise_is_called_a_tie() -> None:
    candidates = [
        Candidate("base", None, {}, (0.50, 0.52, 0.51)),
        Candidate("trial 4", 4, {}, (0.51, 0.53, 0.515)),
        Candidate("trial 7", 7, {}, (0.40, 0.41, 0.42)),
    ]
    found = conclude(candidates, maximize=True)
    assert found["winner"] == "trial 4" and not found["change"] and found["ties"] == ["base"]
    assert found["gain"]["word"] == "tie" and "a tie" in found["conclusion"].lower()
    assert found["noise"] == pytest.approx(0.01, abs=0.002)


def test_what_does_not_come_to_its_end_is_no_winner_and_a_base_that_does_not_is_left() -> None:
    lost = Candidate("trial 1", 1, {}, (0.9, None, 0.9))
    base = Candidate("base", None, {}, (0.5, 0.51, 0.5))
    good = Candidate("trial 2", 2, {}, (0.7, 0.71, 0.7))
    assert conclude([base, lost, good], maximize=True)["winner"] == "trial 2"
    nothing = conclude([base, lost], maximize=True)
    assert not nothing["change"] and "no candidate" in nothing["conclusion"]
    rescued = conclude([Candidate("base", None, {}, (None, 0.5, 0.5)), good], maximize=True)
    assert rescued["change"] and "base does not come to its end" in rescued["conclusion"]


def test_the_base_and_the_best_different_trials_are_chosen() -> None:
    rates = [0.01, 0.2, 0.2, 0.1, 0.3]
    trials = tuple(
        Trial(n, {"SOLVER.BASE_LR": rate}, "complete", values=(n / 10,)) for n, rate in enumerate(rates)
    )
    history = History("s", (Objective("m", "maximize"),), SPACE, {"SOLVER.BASE_LR": 0.1}, trials)
    assert [c.name for c in choose(history, 2)] == ["base", "trial 4", "trial 2"]
    assert [c.name for c in choose(history, 9)] == ["base", "trial 4", "trial 2", "trial 0"]
