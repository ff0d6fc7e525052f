"""Studies with a known answer: how often the gates, the next space and the verdict say the right thing.

    python bench/gates.py --repetitions 100 --output bench/results/gates.json

Each study is made up: trials on a scrambled Sobol sequence over three knobs, a score that is quadratic in the place of
the learning rate in its range, noise, and curves of a known shape. Thresholds marked OURS in tuner/thresholds.py were
chosen with other seeds (tests/tuner/test_gates.py); here they are judged. Nothing is trained: a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import qmc

from detectune.tuner import gates
from detectune.tuner.confirm import Candidate, choose, conclude, worth_a_second_look
from detectune.tuner.curves import Curves
from detectune.tuner.gates import Gate
from detectune.tuner.history import Dimension, History, Objective, Space, Trial
from detectune.tuner.narrowing import next_space
from detectune.tuner.planners.steps import advise_steps
from detectune.tuner.regions import at_position, position

RATE = Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log")
SPACE = Space(
    (
        RATE,
        Dimension("SOLVER.MOMENTUM", "float", 0.8, 0.999, "one_minus_log"),
        Dimension("SOLVER.WEIGHT_DECAY", "float", 1e-6, 1e-2, "log", role="nuisance"),
    )
)
FIRST_SEED = 8_000_000
TRIALS, EVALUATIONS, SEEDS, FINALISTS = 40, 20, 3, 3
SPREAD = 0.02  # noise of one run's score, whose range over the space is about 0.5
Shape = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class World:
    """A truth, and the noise with which it is seen.

    Attributes:
        top: place of the best rate in its range; beyond 0 or 1 it lies outside.
        effect: the score lost at a distance of 1 from it; 0: nothing matters.
        diverges_above: place of the rate from which nothing trains.
        shape: value over the run, 0 to 1, relative to the trial's score.
        wobble: noise between the evaluations of a run.
        spikes: how often a run's loss leaps to four times its height.
    """

    top: float = 0.5
    effect: float = 2.0
    diverges_above: float = 2.0
    shape: Shape = lambda t: 1 - np.exp(-7 * t)
    wobble: float = 0.005
    spikes: int = 0

    def score(self, params: dict[str, float]) -> float:
        return 0.8 - self.effect * (position(RATE, params["SOLVER.BASE_LR"]) - self.top) ** 2


def study(world: World, seed: int) -> tuple[History, Curves, np.random.Generator]:
    """A study of that world."""
    draws = np.random.default_rng([FIRST_SEED, seed])
    points = qmc.Sobol(len(SPACE), scramble=True, seed=np.random.default_rng([FIRST_SEED, seed, 1])).random(
        64
    )[:TRIALS]
    t = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
    fine = np.arange(1, 101) / 100
    trials, metric, loss = [], {}, {}
    for number, point in enumerate(points):
        params = {d.key: at_position(d, float(u)) for d, u in zip(SPACE, point, strict=True)}
        lost = position(RATE, params["SOLVER.BASE_LR"]) > world.diverges_above
        end = world.score(params) + SPREAD * draws.normal()
        relative = world.shape(t) / world.shape(np.array([1.0]))
        values = end * relative + world.wobble * draws.normal(size=EVALUATIONS)
        losses = (np.exp(-3 * fine) + 0.2) * (1 + 0.05 * draws.normal(size=100))
        losses[draws.choice(np.arange(20, 100), size=world.spikes, replace=False)] *= 4
        metric[number] = list(zip((100 * t).tolist(), values.tolist(), strict=True))
        loss[number] = list(zip((100 * fine).tolist(), losses.tolist(), strict=True))
        trials.append(
            Trial(
                number,
                params,
                "infeasible" if lost else "complete",
                values=None if lost else (float(values[-1]),),
            )
        )
    base = {"SOLVER.BASE_LR": 1e-3, "SOLVER.MOMENTUM": 0.9, "SOLVER.WEIGHT_DECAY": 1e-4}
    history = History("made up", (Objective("score", "maximize"),), SPACE, base, tuple(trials))
    return history, Curves(metric, loss), draws


def verdict(world: World, seed: int) -> dict[str, object]:
    """What the confirmation of that study's best trials concludes."""
    history, _, draws = study(world, seed)
    candidates = choose(history, FINALISTS)
    scores = {c.name: world.score({**history.base, **c.params}) for c in candidates}
    return confirmed(candidates, scores, draws)[-1]


def confirmed(
    candidates: list[Candidate], scores: dict[str, float], draws: np.random.Generator
) -> list[dict[str, object]]:
    """What is concluded at the first look and, where that promises more of a second, at that."""

    def longer(c: Candidate) -> Candidate:
        return replace(c, values=(*c.values, *(scores[c.name] + SPREAD * draws.normal(size=SEEDS)).tolist()))

    candidates = [longer(c) for c in candidates]
    first = conclude(candidates, maximize=True)
    again = worth_a_second_look(first, candidates)
    if not again:
        return [first]
    return [first, conclude([longer(c) if c in again else c for c in candidates], maximize=True)]


def adopted(gain: float, repetitions: int) -> dict[str, float]:
    """How often a change is recommended where three trials are better by so many deviations of a run's noise."""
    names = ["base", *(f"trial {i}" for i in range(FINALISTS))]
    scores = {name: SPREAD * gain * (name != "base") for name in names}
    looks = [
        confirmed(
            [Candidate(name, None, {}) for name in names], scores, np.random.default_rng([FIRST_SEED, n])
        )
        for n in range(repetitions)
    ]
    ways = {"at the first look": 0, "after both": -1}
    return {way: sum(bool(found[i]["change"]) for found in looks) / repetitions for way, i in ways.items()}


def gate_says(name: str, world: World, right: Callable[[Gate], bool]) -> Callable[[int], bool]:
    """Whether a gate is right about a study of the world."""

    def judge(seed: int) -> bool:
        history, curves, _ = study(world, seed)
        found = {gate.name: gate for gate in gates.judge(history, curves)}
        return right(found[name])

    return judge


def space_holds_optimum(world: World) -> Callable[[int], bool]:
    """Whether the next round's range is smaller and holds the best rate."""

    def judge(seed: int) -> bool:
        new = next_space(study(world, seed)[0])[0]["SOLVER.BASE_LR"]
        assert new.low is not None and new.high is not None
        best = at_position(RATE, world.top)
        return new.low < best < new.high and (new.low, new.high) != (RATE.low, RATE.high)

    return judge


def cut_is_near(gate: Gate) -> bool:
    """Whether the infeasible half is told from the other within a twentieth of the range."""
    return (
        gate.level == "FAIL"
        and gate.keys == ("SOLVER.BASE_LR",)
        and abs(position(RATE, gate.data["cut"]) - 0.5) <= 0.05
    )


def edge(end: str, low: float, high: float) -> Callable[[Gate], bool]:
    """Whether a range is asked for that is wider at this end alone."""
    return lambda gate: (
        gate.level == "FAIL"
        and [(e["key"], e["end"], round(e["low"], 8), round(e["high"], 6)) for e in gate.data["edges"]]
        == [("SOLVER.BASE_LR", end, low, high)]
    )


def passes(gate: Gate) -> bool:
    return gate.level == "PASS"


def steps_are_right(world: World, low: float, high: float) -> Callable[[int], bool]:
    """Whether the number of iterations advised from the best trial's curve of 100 lies there."""

    def judge(seed: int) -> bool:
        history, curves, _ = study(world, seed)
        curve = curves.metric[gates.ranked(history)[0].number]
        return low <= advise_steps(curve, maximize=True).steps <= high

    return judge


INSIDE, NOISE = World(), World(effect=0.0)
ABOVE, BELOW = World(top=1.2), World(top=-0.2)
HALF = World(diverges_above=0.5, top=0.3)
SHORT = World(shape=lambda t: 1 - np.exp(-1.2 * t))
LONG = World(shape=lambda t: np.where(t < 0.08, 1.0, 0.97 - 0.1 * t))
UNSTABLE = World(spikes=6)
SWINGING = World(wobble=0.25)
OVERFITTING = World(shape=lambda t: 1 - np.exp(-7 * t) - 0.4 * np.maximum(0, t - 0.5))
SATURATED = World(shape=lambda t: 1 - np.exp(-40 * t))

CASES: dict[str, Callable[[int], bool]] = {
    "optimum inside: the boundary passes": gate_says("boundary", INSIDE, passes),
    "optimum inside: enough points": gate_says("enough points", INSIDE, passes),
    "optimum inside: the next range is smaller and holds it": space_holds_optimum(INSIDE),
    "optimum inside: a change is recommended": lambda s: bool(verdict(World(top=0.6), s)["change"]),
    "optimum at the upper edge: that range wider": gate_says("boundary", ABOVE, edge("upper", 1e-4, 100.0)),
    "optimum at the lower edge: that range wider": gate_says("boundary", BELOW, edge("lower", 1e-6, 1.0)),
    "pure noise: no wider range": gate_says("boundary", NOISE, passes),
    "pure noise: no change is recommended": lambda s: not verdict(NOISE, s)["change"],
    "half infeasible: from which rate on": gate_says("infeasible", HALF, cut_is_near),
    "all feasible: no matter": gate_says("infeasible", INSIDE, passes),
    "too short": gate_says("length", SHORT, lambda g: g.level == "WARN" and "longer" in g.advice),
    "too long": gate_says("length", LONG, lambda g: g.level == "FAIL" and "fewer" in g.advice),
    "right length": gate_says("length", INSIDE, passes),
    "too short: about as many steps as are needed": steps_are_right(SHORT, 150, 400),
    "unstable": gate_says("optimisation", UNSTABLE, lambda g: g.level == "FAIL" and "rate" in g.advice),
    "swinging": gate_says("optimisation", SWINGING, lambda g: g.level == "WARN"),
    "steady": gate_says("optimisation", INSIDE, passes),
    "overfitting": gate_says("overfitting", OVERFITTING, lambda g: g.level == "WARN"),
    "not overfitting": gate_says("overfitting", INSIDE, passes),
    "saturated": gate_says("saturation", SATURATED, lambda g: g.level == "WARN"),
    "not saturated": gate_says("saturation", SHORT, passes),
}


def count(case: str, repetitions: int, *, first: int = 0) -> int:
    """In how many of so many studies the right thing was said."""
    return sum(CASES[case](seed) for seed in range(first, first + repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--output", type=Path, default=None)
    given = parser.parse_args()
    right = {}
    for case in CASES:
        right[case] = count(case, given.repetitions)
        print(f"{right[case]:>4} of {given.repetitions}  {case}", flush=True)
    result = {
        "command": f"python bench/gates.py --repetitions {given.repetitions}",
        "repetitions": given.repetitions,
        "first_seed": FIRST_SEED,
        "trials_of_a_study": TRIALS,
        "seeds_of_the_confirmation": SEEDS,
        "right": right,
        "change_recommended_by_gain_in_deviations": {
            str(gain): adopted(gain, 10 * given.repetitions) for gain in (0, 1, 2, 3, 5)
        },
        "least": min(right.values()),
    }
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
