"""Batch, scaling, length and gradients on cases whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detectune.engine.run_directory import RunDirectory
from detectune.engine.schedule import Schedule
from detectune.errors import UserError
from detectune.tuner.planners.batches import Measured, find_batch
from detectune.tuner.planners.gradients import advise_gradients, norms_of, settled_from
from detectune.tuner.planners.scaling import scale
from detectune.tuner.planners.steps import advise_steps, fit_scale


def machine(*, fixed: float, each: float, saturates: float = 1e9, tried: list[int] | None = None):
    """Memory fixed + each x batch; images per second rise in proportion until `saturates` images."""

    def measure(batch: int) -> Measured:
        if tried is not None:
            tried.append(batch)
        return Measured(batch, 100 * min(batch, saturates), int(fixed + each * batch))

    return measure


@pytest.mark.parametrize("limit", [1000, 1007, 5000, 123_456])
def test_the_largest_batch_within_a_memory_limit_is_found_exactly(limit: int) -> None:
    tried: list[int] = []
    advice = find_batch(machine(fixed=300, each=7, tried=tried), most=10**6, limit=limit)
    assert advice.largest == (limit - 300) // 7
    assert all(300 + 7 * batch <= limit for batch in tried), "a batch was tried that had to fail"


def test_memory_that_grows_faster_is_bracketed_and_a_crash_is_a_limit() -> None:
    def measure(batch: int) -> Measured:
        return Measured(batch, 10.0 * batch, batch**2)

    advice = find_batch(measure, most=10**6, limit=10_000)
    assert advice.largest is not None and 100 * 15 / 16 <= advice.largest <= 100
    crashing = find_batch(
        lambda batch: Measured(batch, 1.0, None) if batch <= 90 else Measured(batch, None, None),
        most=1024,
        limit=None,
    )
    assert crashing.largest is not None and 85 <= crashing.largest <= 90
    assert find_batch(lambda batch: Measured(batch, None, None), most=8, limit=None).take is None


def test_a_batch_beyond_which_nothing_is_gained_is_not_advised() -> None:
    advice = find_batch(machine(fixed=0, each=1, saturates=30), most=512, limit=None)
    assert advice.largest == 512 and advice.take == 32


def test_linear_scaling_shows_its_arithmetic() -> None:
    schedule = Schedule(
        "steps_with_decay", 0.02, 90_000, steps=(0, 60_000, 80_000), step_size=1, warm_up_iters=500
    )
    advice = scale(schedule, optimizer="sgd", reference=16, batch=4, unread={"SOLVER.STEP_SIZE"})
    assert advice.lines == (
        "SOLVER.BASE_LR: 0.02 x 4 / 16 = 0.005",
        "SOLVER.MAX_ITER: 90000 x 16 / 4 = 360000",
        "SOLVER.STEPS: [0, 60000, 80000] x 16 / 4 = [0, 240000, 320000]",
        "SOLVER.WARM_UP_ITERS: 500 x 16 / 4 = 2000",
    )
    assert advice.values["SOLVER.BASE_LR"] == pytest.approx(0.005)
    adaptive = scale(schedule, optimizer="adamw", reference=16, batch=4)
    assert "0.02 x sqrt(4 / 16) = 0.01" in adaptive.lines[-1]


def curve(scale_: float, *, length: int = 1000, spread: float = 0.002, seed: int = 0, evaluations: int = 20):
    draws = np.random.default_rng(seed)
    x = np.arange(1, evaluations + 1) * length / evaluations
    y = 0.8 - 0.5 * np.exp(-x / scale_) + spread * draws.normal(size=evaluations)
    return list(zip(x.tolist(), y.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_how_many_steps_from_a_saturating_curve(seed: int) -> None:
    """99 % of the gain of 1 - exp(-t / T) is there at 4.6 T."""
    short = advise_steps(curve(500, seed=seed), maximize=True)
    assert short.word == "too short" and 1800 <= short.steps <= 3000
    right = advise_steps(curve(100, seed=seed), maximize=True)
    assert right.word == "right" and 350 <= right.steps <= 600
    falling = [(x, -y) for x, y in curve(100, seed=seed)]
    assert advise_steps(falling, maximize=False) == right
    assert fit_scale(curve(300, spread=1e-6), maximize=True) == pytest.approx(300, rel=0.05)


def test_a_run_that_was_best_at_its_beginning_is_too_long() -> None:
    worse = [(x, 1 - x / 2000) for x, _ in curve(1)]
    advice = advise_steps(worse, maximize=True)
    assert advice.word == "too long" and advice.steps == 75
    with pytest.raises(UserError, match="EVAL_ITERS"):
        advise_steps(worse[:3], maximize=True)


def rows(norms: list[float], *, every: int = 20) -> list[dict[str, object]]:
    return [
        {"kind": "train", "iteration": i + every, "gradient_norms": norms[i : i + every]}
        for i in range(0, len(norms), every)
    ]


def test_clipping_is_advised_at_the_ninetieth_percentile_of_norms_in_a_file(tmp_path: Path) -> None:
    norms = np.random.default_rng(1).permutation(np.arange(1, 1001) / 100.0).tolist()
    directory = RunDirectory(tmp_path)
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows(norms)))
    read = norms_of(directory.read_metrics())
    assert [norm for _, norm in read] == norms and [int(step) for step, _ in read[:3]] == [1, 2, 3]
    advice = advise_gradients(read, clip=0.0, warm_up=0, rate=0.1)
    assert advice.percentile == 9.0 and advice.clipped is None
    assert advice.settings == {"SOLVER.CLIP_GRADIENT_NORM": 9.0}


@pytest.mark.parametrize(
    ("clip", "share", "lower"), [(9.0, 0.1, False), (5.0, 0.5, False), (4.9, 0.51, True)]
)
def test_a_rate_is_lowered_when_more_than_half_is_clipped(clip: float, share: float, lower: bool) -> None:
    norms = norms_of(rows((np.arange(1, 1001) / 100.0).tolist()))
    advice = advise_gradients(norms, clip=clip, warm_up=10**6, rate=0.1)
    assert advice.clipped == pytest.approx(share)
    assert ("SOLVER.BASE_LR" in advice.settings) is lower and ("Lower SOLVER.BASE_LR" in advice.text) is lower


@pytest.mark.parametrize("until", [60, 200])
def test_warm_up_lasts_until_norms_have_settled(until: int) -> None:
    draws = np.random.default_rng(until)
    height = np.where(np.arange(1000) < until, 8.0, 1.0)
    norms = norms_of(rows((height * np.exp(0.2 * draws.normal(size=1000))).tolist()))
    assert settled_from(norms) == pytest.approx(until, abs=12)
    assert "SOLVER.WARM_UP_ITERS" in advise_gradients(norms, clip=0, warm_up=20, rate=0.1).settings
    assert "SOLVER.WARM_UP_ITERS" not in advise_gradients(norms, clip=0, warm_up=250, rate=0.1).settings


def test_level_and_falling_norms_ask_for_no_warm_up_and_few_for_more_of_them() -> None:
    draws = np.random.default_rng(0)
    assert settled_from(norms_of(rows(np.exp(0.3 * draws.normal(size=600)).tolist()))) == 0
    assert settled_from(norms_of(rows(np.linspace(10, 0.1, 600).tolist()))) == 0
    with pytest.raises(UserError, match="20 are needed"):
        advise_gradients([(1, 1.0)], clip=0, warm_up=0, rate=0.1)
