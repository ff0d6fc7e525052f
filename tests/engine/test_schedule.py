"""Learning-rate policies against Detectron's table, the end points of ours, scaling and epochs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectune.engine.schedule import (
    POLICIES,
    Schedule,
    check_schedule,
    iterations_of,
    lr_at,
    scale_to_batch,
)
from detectune.errors import UserError

DETECTRON = dict(base_lr=0.001, gamma=0.1, step_size=30000, warm_up_iters=500, warm_up_factor=1.0 / 3.0)


def golden_cases(shared: Path) -> list[dict[str, Any]]:
    cases = json.loads((shared / "golden/detectron/units/lr_policy.json").read_text())
    return [case for case in cases if case["function"] == "lr_policy.get_lr_at_iter"]


def schedule_of(keys: dict[str, Any]) -> Schedule:
    values: dict[str, Any] = {"max_iter": 40000, "lr_policy": "step"} | DETECTRON
    for key, value in keys.items():
        values[key.removeprefix("SOLVER.").lower()] = tuple(value) if isinstance(value, list) else value
    return Schedule(**values)


def test_every_iteration_of_detectrons_tables_has_the_same_float32_rate(shared: Path) -> None:
    cases = golden_cases(shared)
    assert len(cases) >= 9
    for case in cases:
        schedule = schedule_of(case["cfg"])
        for iteration, expected in case["out_json"]["table"]:
            got = np.float32(lr_at(schedule, iteration))
            # The table prints float32 values with as many digits as they need.
            assert abs(got - np.float32(expected)) <= np.spacing(np.float32(expected)), (
                case["cfg"],
                iteration,
            )
            assert float(got) == lr_at(schedule, iteration)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_policy_is_positive_inside_the_run_and_never_above_the_base_rate(policy: str) -> None:
    schedule = Schedule(
        policy, 0.02, 100, steps=(0, 60, 80), lrs=(0.02, 0.002, 0.0002), step_size=30, lr_final_fraction=0.01
    )
    rates = [lr_at(schedule, i) for i in range(100)]
    assert min(rates) > 0 and max(rates) <= float(np.float32(0.02))
    assert rates[-1] < 0.02 * 0.2


@pytest.mark.parametrize("policy", ["cosine_decay", "polynomial_decay", "one_cycle"])
def test_policies_end_at_the_final_fraction(policy: str) -> None:
    schedule = Schedule(policy, 1.0, 200, lr_final_fraction=0.25)
    assert lr_at(schedule, 200) == pytest.approx(0.25)


def test_exponential_decay_reaches_gamma_at_the_end() -> None:
    assert lr_at(Schedule("exp_decay", 2.0, 50, gamma=0.01), 50) == pytest.approx(0.02)


def test_one_cycle_rises_to_its_peak_and_falls() -> None:
    schedule = Schedule("one_cycle", 1.0, 100, one_cycle_peak=0.4)
    rates = [lr_at(schedule, i) for i in range(101)]
    assert rates.index(max(rates)) == 40 and rates[0] == pytest.approx(0.04)
    assert all(a < b for a, b in pairwise(rates[:41]))
    assert all(a > b for a, b in pairwise(rates[40:]))


def test_polynomial_decay_with_power_one_is_a_straight_line() -> None:
    schedule = Schedule("polynomial_decay", 1.0, 10, poly_power=1.0)
    assert [lr_at(schedule, i) for i in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])


def test_linear_scaling_multiplies_rates_and_divides_iterations() -> None:
    schedule = Schedule(
        "steps_with_decay", 0.02, 90000, steps=(0, 60000, 80000), lrs=(0.02,), warm_up_iters=500
    )
    scaled, changed = scale_to_batch(schedule, reference_batch=16, batch=2)
    assert (scaled.base_lr, scaled.max_iter, scaled.steps) == (0.0025, 720000, (0, 480000, 640000))
    assert (scaled.warm_up_iters, scaled.step_size, scaled.lrs) == (4000, 240000, (0.0025,))
    assert changed["SOLVER.BASE_LR"] == (0.02, 0.0025) and changed["SOLVER.MAX_ITER"] == (90000, 720000)
    assert scale_to_batch(schedule, reference_batch=0, batch=2) == (schedule, {})
    assert scale_to_batch(schedule, reference_batch=2, batch=2) == (schedule, {})


def test_linear_scaling_keeps_images_seen_before_each_step() -> None:
    schedule = Schedule("steps_with_decay", 0.02, 1000, steps=(0, 600, 800), warm_up_iters=100)
    scaled, _ = scale_to_batch(schedule, reference_batch=4, batch=16)
    assert [16 * step for step in scaled.steps] == [4 * step for step in schedule.steps]
    assert lr_at(scaled, 10) / 16 == pytest.approx(lr_at(schedule, 40) / 4)


def test_epochs_count_every_image() -> None:
    assert iterations_of(3, num_images=10, batch=4) == 8
    assert iterations_of(1, num_images=1, batch=16) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr_policy": "stepp"}, "SOLVER.LR_POLICY='stepp'"),
        ({"lr_policy": "steps_with_decay", "steps": (60, 80)}, "SOLVER.STEPS must start at 0"),
        ({"lr_policy": "steps_with_decay", "steps": (0, 80, 60)}, "SOLVER.STEPS"),
        ({"lr_policy": "steps_with_lrs", "steps": (0, 60), "lrs": (0.1,)}, "SOLVER.LRS"),
        ({"warm_up_method": "quadratic", "warm_up_iters": 5}, "SOLVER.WARM_UP_METHOD"),
        ({"step_size": 0}, "SOLVER.STEP_SIZE"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        check_schedule(replace(Schedule("step", 0.1, 100), **change))
