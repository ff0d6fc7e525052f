"""Learning rate as a pure function of the iteration, Detectron's policies first.

`lr_at(schedule, i)` is the rate of the update that follows `i` finished updates. A rate is `base policy *
warm-up`: warm-up multiplies the already decayed rate (Goyal et al., "Accurate, Large Minibatch SGD",
section 2.2, for the linear form), and the product is rounded to float32, as Detectron stored it. Past the
end of a run the formulas go on.

Also here: the linear scaling rule (Goyal et al., section 2.1) and epochs to iterations. Knows nothing about
configuration, models or optimisers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from detectune.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Everything that decides the learning rate. Fields carry the names of their SOLVER keys."""

    lr_policy: str
    base_lr: float
    max_iter: int
    gamma: float = 0.1
    steps: tuple[int, ...] = ()
    step_size: int = 30000
    lrs: tuple[float, ...] = ()
    lr_final_fraction: float = 0.0
    poly_power: float = 0.9
    one_cycle_peak: float = 0.3  # fraction of the run
    warm_up_method: str = "linear"
    warm_up_iters: int = 0
    warm_up_factor: float = 1.0 / 3.0


def lr_at(schedule: Schedule, iteration: int) -> float:
    """The learning rate of update `iteration` (from 0), a float32 value held in a Python float."""
    rate = POLICIES[schedule.lr_policy](schedule, iteration)
    return float(np.float32(rate * warm_up_factor(schedule, iteration)))


def warm_up_factor(schedule: Schedule, iteration: int) -> float:
    """What the policy's rate is multiplied by: from `warm_up_factor` at iteration 0 to 1 at
    `warm_up_iters`.
    """
    if iteration >= schedule.warm_up_iters:
        return 1.0
    if schedule.warm_up_method == "constant":
        return schedule.warm_up_factor
    alpha = iteration / schedule.warm_up_iters
    return schedule.warm_up_factor * (1.0 - alpha) + alpha


def check_schedule(schedule: Schedule) -> None:
    """Raise a `UserError` that names the keys if `schedule` cannot be followed."""
    if schedule.lr_policy not in POLICIES:
        raise UserError(
            f"SOLVER.LR_POLICY={schedule.lr_policy!r} is unknown; "
            f"choose one of: {', '.join(sorted(POLICIES))}."
        )
    if schedule.warm_up_method not in ("linear", "constant") and schedule.warm_up_iters > 0:
        raise UserError(
            f"SOLVER.WARM_UP_METHOD={schedule.warm_up_method!r} is unknown; choose one of: constant, linear."
        )
    if schedule.lr_policy == "step" and schedule.step_size < 1:
        raise UserError(f"SOLVER.STEP_SIZE must be at least 1, got {schedule.step_size}.")
    if schedule.lr_policy in ("steps_with_decay", "steps_with_lrs"):
        steps = list(schedule.steps)
        if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise UserError(
                f"SOLVER.STEPS must start at 0 and rise strictly for SOLVER.LR_POLICY={schedule.lr_policy!r}, "
                f"got {steps}."
            )
    if schedule.lr_policy == "steps_with_lrs" and len(schedule.lrs) != len(schedule.steps):
        raise UserError(
            f"SOLVER.LRS needs one rate per entry of SOLVER.STEPS: got {len(schedule.lrs)} rates for "
            f"{len(schedule.steps)} steps."
        )


def iterations_of(num_epochs: int, *, num_images: int, batch: int) -> int:
    """Updates that show every image `num_epochs` times, rounded up to whole batches of `batch` images."""
    return max(1, math.ceil(num_epochs * num_images / batch))


def scale_to_batch(
    schedule: Schedule, *, reference_batch: int, batch: int
) -> tuple[Schedule, dict[str, tuple[object, object]]]:
    """The linear scaling rule: a schedule written for `reference_batch` images an update, rescaled to
    `batch`.

    Rates are multiplied by batch / reference_batch, iterations divided by it, so that the same number of
    images is seen under the same rate per image. Returns the schedule and what changed: {key: (before,
    after)}.
    """
    if reference_batch <= 0 or reference_batch == batch:
        return schedule, {}
    factor = batch / reference_batch

    def iterations(count: int) -> int:
        return max(1, round(count / factor)) if count > 0 else count

    scaled = replace(
        schedule,
        base_lr=schedule.base_lr * factor,
        lrs=tuple(rate * factor for rate in schedule.lrs),
        max_iter=iterations(schedule.max_iter),
        steps=tuple(iterations(step) for step in schedule.steps),
        step_size=iterations(schedule.step_size),
        warm_up_iters=iterations(schedule.warm_up_iters),
    )
    names = ("base_lr", "lrs", "max_iter", "steps", "step_size", "warm_up_iters")
    pairs = {f"SOLVER.{name.upper()}": (getattr(schedule, name), getattr(scaled, name)) for name in names}
    return scaled, {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _step(s: Schedule, iteration: int) -> float:
    return s.base_lr * float(s.gamma ** (iteration // s.step_size))


def _steps_with_decay(s: Schedule, iteration: int) -> float:
    return s.base_lr * float(s.gamma ** (bisect_right(s.steps, iteration) - 1))


def _steps_with_lrs(s: Schedule, iteration: int) -> float:
    return s.lrs[bisect_right(s.steps, iteration) - 1]


def _cosine_decay(s: Schedule, iteration: int) -> float:
    # Loshchilov & Hutter, "SGDR", equation 5, one period.
    share = 0.5 * (1.0 + math.cos(math.pi * iteration / s.max_iter))
    return s.base_lr * (s.lr_final_fraction + (1.0 - s.lr_final_fraction) * share)


def _exp_decay(s: Schedule, iteration: int) -> float:
    # GAMMA is the decay over the whole run.
    return s.base_lr * float(s.gamma ** (iteration / s.max_iter))


def _polynomial_decay(s: Schedule, iteration: int) -> float:
    share = float(max(0.0, 1.0 - iteration / s.max_iter) ** s.poly_power)
    return s.base_lr * (s.lr_final_fraction + (1.0 - s.lr_final_fraction) * share)


def _one_cycle(s: Schedule, iteration: int) -> float:
    # Smith & Topin, "Super-Convergence": up to BASE_LR at the peak, then down, both half cosines. The rise
    # starts at BASE_LR / 25 (the ratio the paper's authors recommend), the fall ends at BASE_LR *
    # LR_FINAL_FRACTION.
    peak = s.one_cycle_peak * s.max_iter
    if iteration < peak:
        start, end, progress = s.base_lr / 25.0, s.base_lr, iteration / peak
    else:
        start, end = s.base_lr, s.base_lr * s.lr_final_fraction
        progress = min(1.0, (iteration - peak) / max(s.max_iter - peak, 1.0))
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


POLICIES: dict[str, Callable[[Schedule, int], float]] = {
    "step": _step,
    "steps_with_decay": _steps_with_decay,
    "steps_with_lrs": _steps_with_lrs,
    "cosine_decay": _cosine_decay,
    "exp_decay": _exp_decay,
    "polynomial_decay": _polynomial_decay,
    "one_cycle": _one_cycle,
}
